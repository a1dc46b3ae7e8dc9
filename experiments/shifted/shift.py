"""`experiments/shift`: every variant of the update on real preference data, under a real shift of the policy.

The packaged MiniLM is frozen below its last layer. The last layer, the pooler and a new head learn from pairs
of weak models (version 1), continue with each variant on unlabelled groups of stronger models, and are judged
by labelled pairs of these. Every run uses the trainer's own loop; only the forward is folded (folded.py).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import torch
from tqdm import tqdm

from experiments import command_line
from experiments.shifted import experiment
from experiments.shifted.comparison import Bootstrap, Gaps
from experiments.shifted.data import GROUP_SIZE, META_SETS, Responses, ShiftData, load
from experiments.shifted.evaluation import Evaluation
from experiments.shifted.experiment import Material, Row, run_seed, steps_a_seed
from experiments.shifted.folded import FoldedModel, check
from experiments.shifted.states import FrozenStates, states_of
from experiments.shifted.tables import LEGEND, Estimates, record, tables
from experiments.shifted.variants import CHEAPER, LONGER, META_BATCH_SIZE, NAMES, TRAINED, VANILLA
from metarm.errors import ConfigurationError
from metarm.model.encoding import Encoder
from metarm.model.reward_model import RewardModel, import_model, quiet_transformers
from metarm.runtime import process_environment
from metarm.runtime.code_version import code_version
from metarm.runtime.cores import usable_cores
from trainer.batches import EncodedGroup, encode_pairs
from trainer.bootstrap import packaged_encoder

DATA_VARIABLE = "METARM_SHIFT_DATA"
CHECKED_TEXTS = 16
PACKAGES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Scope:
    """How much a run covers."""

    max_tokens: int = 512
    train_pairs: int | None = None
    groups_a_prompt: int = 2
    seeds: int = 5
    meta_sets: tuple[str, ...] = ("strong", "vstrong", "llama3_family", "weak")
    variants: tuple[str, ...] = NAMES


QUICK = Scope(
    max_tokens=256,
    train_pairs=2000,
    groups_a_prompt=1,
    seeds=3,
    meta_sets=("vstrong", "weak"),
    variants=tuple(name for name in NAMES if name not in CHEAPER),
)


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(_parser(), shift, arguments)


def shift(options: argparse.Namespace) -> None:
    """Run the scope that `options` describe. Raises ConfigurationError without data or without MiniLM."""
    data = options.data if "data" in options else os.environ.get(DATA_VARIABLE)
    if not data:
        raise ConfigurationError(
            f"no preference data: pass --data DIR or set {DATA_VARIABLE} (format: docs/evidence/shift.md)"
        )
    chosen = {name: getattr(options, name) for name in ("seeds", "variants", "meta_sets") if name in options}
    scope = replace(QUICK if options.quick else Scope(), **chosen)
    command_line.at_least(1, seeds=scope.seeds)
    process_environment.ensure_set()
    quiet_transformers()
    torch.set_num_threads(usable_cores())
    options.out.mkdir(parents=True, exist_ok=True)
    run(Path(data), scope, str(packaged_encoder()), options.out / "states", options.out / "shift.json")


def run(folder: Path, scope: Scope, backbone: str, states_folder: Path, out: Path) -> None:
    """Read → encode → train and score by seed → compare → print and write `out`.

    `backbone` is a BERT checkpoint; `states_folder` keeps the outputs of its frozen layers.
    """
    started = time.monotonic()
    data = load(folder, scope.meta_sets, train_pairs=scope.train_pairs, groups_a_prompt=scope.groups_a_prompt)
    model = _new_model(backbone, scope.max_tokens, seed=0)
    material = _material(model.encoder, data)
    states = _states(model, material, states_folder)
    encoded_s = time.monotonic() - started
    folded = FoldedModel(model, states)
    difference = check(folded, material.evaluation.texts[:CHECKED_TEXTS])
    print(_heading(scope, data, folded, difference), flush=True)
    estimates = _estimates(material.evaluation, _by_seed(scope, backbone, states, material))
    for meta in scope.meta_sets:
        print("\n" + tables(estimates, meta), flush=True)
    seconds = time.monotonic() - started
    print(f"\n{LEGEND}\n\n{seconds:.0f} s, {encoded_s:.0f} of them until the frozen layers' states were there")
    content = {
        "format": 1,
        "settings": asdict(scope) | {"fold_difference": difference, "seconds": round(seconds)},
        "version 1": experiment.first_options(seed=0).record(),
        "variants": {name: experiment.next_options(v, seed=0).record() for name, v in TRAINED.items()},
        "machine": _machine(),
        "rows": record(estimates),
    }
    out.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    print(f"wrote {out}")


def _machine() -> dict[str, Any]:
    """What the figures depend on, apart from the settings: processor, cores, packages, code."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "packages": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")
        },
        "code": code_version(),
    }


def _by_seed(scope: Scope, backbone: str, states: FrozenStates, material: Material) -> list[dict[Row, Gaps]]:
    steps = steps_a_seed(scope.variants, len(scope.meta_sets)) * scope.seeds
    found = []
    with tqdm(total=steps, desc="updates", unit="step", disable=None, leave=False) as bar:
        for seed in range(scope.seeds):
            model = FoldedModel(_new_model(backbone, scope.max_tokens, seed), states)
            found.append(run_seed(model, seed, material, scope.variants, bar.update))
    return found


def _estimates(evaluation: Evaluation, by_seed: Sequence[dict[Row, Gaps]]) -> Estimates:
    bootstrap = Bootstrap(evaluation.sets, evaluation.strata, len(by_seed))
    rows: dict[Row, list[Gaps]] = {row: [seed[row] for seed in by_seed] for row in by_seed[0]}
    rows[None, LONGER] = [evaluation.word_gaps()] * len(by_seed)
    vanilla = bootstrap.figures(rows[None, VANILLA])
    return {row: bootstrap.estimates(bootstrap.figures(gaps), vanilla) for row, gaps in rows.items()}


def _material(encoder: Encoder, data: ShiftData) -> Material:
    return Material(
        pairs=encode_pairs(encoder, data.train),
        meta={name: _encoded(encoder, groups) for name, groups in data.meta.items()},
        evaluation=Evaluation(encoder, data),
    )


def _encoded(encoder: Encoder, groups: Sequence[Responses]) -> list[EncodedGroup]:
    encoded = encoder.encode([(group.prompt, group.responses) for group in groups])
    return [EncodedGroup(str(number), responses) for number, responses in enumerate(encoded)]


def _states(model: RewardModel, material: Material, folder: Path) -> FrozenStates:
    """The frozen layers' outputs for the pairs and, in files of their own, for each meta-set: a run with other
    meta-sets reuses the files that it shares."""
    judged = [text for pair in material.pairs for text in (pair.chosen, pair.rejected)]
    states = states_of(model, [*judged, *material.evaluation.texts], folder)
    for groups in material.meta.values():
        states |= states_of(model, [text for group in groups for text in group.responses], folder)
    return FrozenStates(states)


def _new_model(backbone: str, max_tokens: int, seed: int) -> RewardModel:
    return import_model(backbone, max_tokens, init_head=True, seed=seed)[0]


def _heading(scope: Scope, data: ShiftData, model: FoldedModel, difference: float) -> str:
    learning = sum(weight.numel() for weight in model.weights().values())
    total = sum(parameter.numel() for parameter in model.network.parameters())
    tests = ", ".join(f"{len(pairs):,} {name}" for name, pairs in data.labelled.items())
    groups = ", ".join(f"{len(groups):,} {name}" for name, groups in data.meta.items())
    found = _machine()
    return (
        f"packaged MiniLM; {learning / 1e6:.1f} of {total / 1e6:.1f} million parameters learn: "
        "last layer, pooler, head\n"
        f"{scope.max_tokens} tokens; {len(data.train):,} training pairs; pairs judged by: {tests}\n"
        f"meta-sets, groups of {GROUP_SIZE}: {groups}; seeds: {scope.seeds}\n"
        f"version 1: {experiment.FIRST_STEPS} updates of {experiment.BATCH_SIZE} pairs, α "
        f"{experiment.FIRST_LEARNING_RATE:g}; each variant: {experiment.STEPS} more, α "
        f"{experiment.LEARNING_RATE:g}, {META_BATCH_SIZE} groups an update\n"
        f"folded forward against the network's own: {difference:.1e} of a standard deviation of scores\n"
        f"{found['cpu']}, {found['cores']} cores; metarm {found['code']}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        "shift",
        "What each variant of the update does to accuracy and spread on real preference data whose policies "
        "shift: pairs of weak models to learn from, unlabelled groups of stronger ones as meta-sets, labelled "
        "pairs of these to judge by. Prints tables and writes shift.json.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"folder of the preference files (default: ${DATA_VARIABLE})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="256 tokens, 2,000 pairs, 3 seeds, two meta-sets, no _m4 and _stale",
    )
    full = Scope()
    parser.add_argument(
        "--seeds",
        type=int,
        default=argparse.SUPPRESS,
        help=f"how many seeds (default: {full.seeds}; with --quick {QUICK.seeds})",
    )
    parser.add_argument(
        "--variants",
        type=_listed(NAMES),
        default=argparse.SUPPRESS,
        help=f"rows, separated by commas, of {','.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--meta",
        dest="meta_sets",
        type=_listed(META_SETS),
        default=argparse.SUPPRESS,
        help=f"meta-sets, of {','.join(META_SETS)} (default: {','.join(full.meta_sets)})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/shift"),
        help="folder for shift.json and the frozen layers' states",
    )
    return parser


def _listed(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of names separated by commas, each in `known`."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = set(names) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
