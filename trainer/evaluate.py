"""`metarm evaluate`, or `python -m trainer.evaluate`: versions on labelled pairs, each against its parent."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import Field
from pydantic_settings import CliPositionalArg, CliToggleFlag

from metarm.errors import (
    InvalidVersionError,
    NonFiniteScoreError,
    UnknownVersionError,
)
from metarm.figures import PairScores, share_interval
from metarm.runtime import logs, process_environment
from metarm.runtime.closed_pipe import ends_quietly
from metarm.runtime.settings import Arguments, ProcessSettings
from metarm.runtime.tables import print_table
from metarm.runtime.unknown_settings import print_unknown_settings
from metarm.store.evaluations import keep_evaluation
from metarm.store.held_out import HeldOut
from metarm.store.versions import VersionStore
from trainer.gate import paired_difference, sign_test
from trainer.preference_files import read_pairs
from trainer.preferences import digest_of, longer_wins, source_of

if TYPE_CHECKING:
    from metarm.records import Preference

log = logging.getLogger(__name__)
QUARTERS = 4
HEAD = ("version", "accuracy", "95% interval", "change from parent", "95% interval", "p")


class EvaluateSettings(Arguments, ProcessSettings):
    """Measure versions on labelled pairs: the share of pairs whose chosen response gets the higher reward,
    against the parent on the same pairs. The result is kept beside the versions, for the page."""

    ENVIRONMENT = ProcessSettings

    names: CliPositionalArg[list[str]] = Field([], description="Versions or labels. Default: the current one.")
    preferences: Path = Field(
        description="Labelled pairs in TRL's format: JSONL, JSON.gz, Parquet. All are measured on: name pairs "
        "that no run has trained on."
    )
    as_json: CliToggleFlag[bool] = Field(
        False, validation_alias="json", description="Print JSON, for programs."
    )


@ends_quietly()
def main() -> None:
    """Exit status: 0 done, 1 a version cannot be measured, 78 an invalid setting or file."""
    process_environment.ensure_set()
    settings = EvaluateSettings.from_command_line("metarm evaluate", sys.argv[1:])
    logs.configure("evaluate", settings)
    print_unknown_settings("metarm evaluate")
    with logs.refusals("metarm evaluate"):
        run(settings)


def run(settings: EvaluateSettings) -> None:
    """Measure the versions, print the result and keep it. Raises ConfigurationError and what loading raises."""
    store = settings.store
    names = [store.resolve(word) for word in settings.names or ["current"]]
    pairs = read_pairs(settings.preferences)
    source, digest = source_of(settings.preferences), digest_of(settings.preferences)
    with process_environment.gc_paused():
        import torch  # only once the process environment is set

        from metarm.model.reward_model import load_version, quiet_transformers
        from metarm.runtime.cores import usable_cores
        from trainer.batches import encode_pairs, warn_of_cut
        from trainer.training import score_pairs

    quiet_transformers()
    torch.set_num_threads(usable_cores())

    @cache
    def scores(name: str) -> PairScores:
        model = load_version(store.path(name), store.verify(name))
        encoded = encode_pairs(model.encoder, pairs)
        warn_of_cut(name, encoded, model.encoder.max_tokens)
        found = score_pairs(model, encoded)
        odd = sum(not math.isfinite(reward) for reward in found.all)
        if odd:
            raise NonFiniteScoreError(f"{name}: {odd} of {len(found.all)} rewards are not finite", version=name)
        return found

    records = {}
    for name in dict.fromkeys(names):
        manifest = store.manifest(name)
        made_of = HeldOut.of(manifest)
        if made_of is not None and made_of.sha256 == digest:
            log.warning("%s was trained on pairs of this file: what it measures says nothing", name)
        parent, before, missing = manifest.get("parent"), None, None
        if parent is not None:
            try:
                before = scores(parent)
            except (UnknownVersionError, InvalidVersionError) as error:  # pruned, perhaps
                missing = error.message
        found = measured(pairs, scores(name), before)
        of = {"source": source, "sha256": digest, "pairs": len(pairs)}
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        records[name] = {"at": at, "preferences": of, "parent": parent, "parent_missing": missing, **found}
    _keep(store, records)
    if settings.as_json:
        print(orjson.dumps(records, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(records)


def measured(pairs: Sequence[Preference], scores: PairScores, before: PairScores | None) -> dict[str, Any]:
    """The figures of an evaluation. `before` are the parent's scores of the same pairs, one at least. `p` is
    two-sided, of the sign test over the pairs on which the two differ."""
    low, high = share_interval(scores.accuracy, len(pairs))
    change = None
    if before is not None:
        found = paired_difference(before, scores)
        p = min(1.0, 2 * sign_test(max(found.lost, found.won), found.lost + found.won))
        change = {name: getattr(found, name) for name in ("mean", "low", "high", "lost", "won")} | {"p": p}
    return {
        "accuracy": scores.accuracy,
        "interval": [low, high],
        "change": change,
        "parent_accuracy": None if before is None else before.accuracy,
        "longer_wins": longer_wins(pairs),
        "by_length": list(_by_length(pairs, scores)),
    }


def _by_length(pairs: Sequence[Preference], scores: PairScores) -> Iterator[dict[str, Any]]:
    """Quarters of the pairs, by the characters of the longer response."""
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    order = sorted(range(len(pairs)), key=lengths.__getitem__)
    for quarter in range(QUARTERS):
        part = order[quarter * len(order) // QUARTERS : (quarter + 1) * len(order) // QUARTERS]
        if not part:
            continue
        accuracy = sum(scores.wins[place] for place in part) / len(part)
        yield {
            "chars": [lengths[part[0]], lengths[part[-1]]],
            "pairs": len(part),
            "accuracy": accuracy,
            "interval": list(share_interval(accuracy, len(part))),
            "longer_wins": longer_wins([pairs[place] for place in part]),
        }


def _keep(store: VersionStore, records: Mapping[str, Mapping[str, Any]]) -> None:
    try:
        for name, record in records.items():
            keep_evaluation(store.root, name, record)
    except OSError as error:
        print(f"metarm evaluate: the result is not kept: {error.strerror}", file=sys.stderr)


def _show(records: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(records.values()))
    of = first["preferences"]
    print(f"{of['pairs']} pairs of {of['source']} (SHA-256 {of['sha256'][:12]}…)")
    print(f"{first['longer_wins']:.3f} if the longer response always wins\n")
    print_table(HEAD, [_row(name, record) for name, record in records.items()])
    for name, record in records.items():
        if record["parent_missing"]:
            print(f"\n{name}: its parent {record['parent']} is not measured: {record['parent_missing']}")
        print(f"\n{name}, by the characters of the longer response")
        rows = [
            (
                f"{part['chars'][0]} to {part['chars'][1]}",
                *(str(part["pairs"]), f"{part['accuracy']:.3f}"),
                *(_interval(part["interval"]), f"{part['longer_wins']:.3f}"),
            )
            for part in record["by_length"]
        ]
        print_table(("characters", "pairs", "accuracy", "95% interval", "longer wins"), rows)


def _row(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = (name, f"{record['accuracy']:.3f}", _interval(record["interval"]))
    change = record["change"]
    if change is None:
        return (*accuracy, "-", "-", "-")
    interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
    return (*accuracy, f"{change['mean']:+.3f} ({record['parent']})", interval, f"{change['p']:.3f}")


def _interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"


if __name__ == "__main__":
    main()
