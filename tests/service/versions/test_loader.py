"""Versions loaded from a real store by the real loader: refusals, and the checks and warm-up of a valid
version."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from metarm.errors import InvalidVersionError, VersionUnavailableError
from metarm.model import probe
from metarm.model.reward_model import RewardModel, load_model
from metarm.runtime.cores import usable_cores
from metarm.store.manifest import MANIFEST
from metarm.store.versions import VersionStore
from service.scoring.batcher import Batcher
from service.scoring.engine import Engine
from service.scoring.plan import ForwardPlan
from service.scoring.scorer import Scorer
from service.telemetry.metrics import Metrics
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.loader import VersionLoader
from service.versions.refusals import Refusals
from tests.tiny import Kind, make_checkpoint

Kinds = Callable[[Kind], Path]
WEIGHTS = "model.safetensors"
PLAN = ForwardPlan(workers=1, threads=1, batch_tokens=200, slice_tokens=500)


@dataclass
class Served:
    """A loader connected to a scorer, with its plans and refusals."""

    store: VersionStore
    reduced: bool = False
    calibrated: bool = True
    planned: list[RewardModel] = field(default_factory=list)

    def __post_init__(self) -> None:
        def choose(model: RewardModel) -> ForwardPlan:
            self.planned.append(model)
            return PLAN

        engine = Engine(None)
        batcher = Batcher(engine.forward, queue_tokens=10**6)
        self.loader = VersionLoader(
            self.store,
            512,
            share_prompts=True,
            reduced=self.reduced,
            calibrated=self.calibrated,
            prepare=Scorer(engine, batcher, 0, Metrics(), choose, max_request_chars=10**6).prepare,
        )
        self._refused = Refusals(self.store, lambda: None, retry_after_s=0.0)

    @property
    def refusals(self) -> list[tuple[str, str]]:
        return [(refusal.name, refusal.reason) for refusal in self._refused.all()]

    async def load_one(self, name: str) -> LoadedVersion:
        return await self._refused.load(name, self.loader.load)

    def load(self, *names: str) -> list[LoadedVersion]:
        async def main() -> list[LoadedVersion]:
            return [await self.load_one(name) for name in names]

        return asyncio.run(main())


@contextmanager
def served(store: VersionStore, **options: Any) -> Iterator[Served]:
    made = Served(store, **options)
    yield made
    made.loader.close()


@pytest.fixture
def store(tmp_path: Path, checkpoint: Kinds) -> VersionStore:
    """One valid version, and one for the test to corrupt."""
    store = VersionStore(tmp_path / "versions")
    store.prepare()
    publish(store, checkpoint("bert"))
    publish(store, make_checkpoint(tmp_path / "second", "bert", seed=1))
    return store


def publish(store: VersionStore, checkpoint: Path, **fields: Any) -> str:
    """Publish a version as the trainer does, with a probe."""
    name, folder = store.stage()
    model = load_model(checkpoint, 512)
    model.save(folder)
    store.publish(name, {"encoding": model.encoder.describe(), "probe": probe.take(model), **fields})
    return name


def resealed(store: VersionStore, name: str) -> None:
    """Publish the folder again in its present state, so that its digests and its seal are valid."""
    manifest = {key: value for key, value in store.manifest(name).items() if key not in ("digests", "seal")}
    staged = store.root / ".staging" / name
    store.path(name).rename(staged)
    (staged / MANIFEST).unlink()
    store.publish(name, manifest)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def flipped_weights(folder: Path) -> None:
    flip(folder / WEIGHTS, -100)


def flipped_config(folder: Path) -> None:
    flip(folder / "config.json", 10)


def flipped_tokenizer(folder: Path) -> None:
    flip(folder / "tokenizer.json", 500)


def truncated_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def half_a_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:200])


def edited_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    record = orjson.loads(path.read_bytes()) | {"calibration": {"scale": 2.0, "shift": 0.0}}
    path.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))


def linked_weights(folder: Path) -> None:
    moved = folder.parent.parent / "elsewhere"
    (folder / WEIGHTS).rename(moved)
    (folder / WEIGHTS).symlink_to(moved)


def linked_manifest(folder: Path) -> None:
    moved = folder.parent.parent / "elsewhere"
    (folder / MANIFEST).rename(moved)
    (folder / MANIFEST).symlink_to(moved)


def extra_file(folder: Path) -> None:
    (folder / "modeling_bert.py").write_text("raise SystemExit")


def missing_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (flipped_weights, WEIGHTS),
        (flipped_config, "config.json"),
        (flipped_tokenizer, "tokenizer.json"),
        (truncated_weights, WEIGHTS),
        (empty_weights, WEIGHTS),
        (without_manifest, "no manifest.json"),
        (half_a_manifest, "manifest.json"),
        (edited_manifest, "manifest.json was changed after it was written"),
        (linked_weights, WEIGHTS),
        (linked_manifest, "manifest.json is a symbolic link"),
        (extra_file, "modeling_bert.py"),
        (missing_file, "tokenizer.json"),
    ],
)
def test_a_version_changed_after_publication_is_refused_and_the_reason_names_the_difference(
    store: VersionStore, spoil: Callable[[Path], None], names: str
) -> None:
    spoil(store.path("v000002"))
    with served(store) as s:
        with pytest.raises(InvalidVersionError, match="v000002") as refused:
            s.load("v000002")
        assert names in refused.value.message
        assert s.refusals == [("v000002", refused.value.message)]
        assert s.planned == []
        (good,) = s.load("v000001")
        assert good.name == "v000001"


def other_shapes(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "classifier.weight": torch.zeros(1, 7)}, folder / WEIGHTS, {"format": "pt"})


def without_head(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name: w for name, w in weights.items() if "classifier" not in name}, folder / WEIGHTS, {"format": "pt"}
    )


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["bert.embeddings.position_embeddings.weight"][127, 3] = torch.nan
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def cut_to_the_header(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    record = json.loads(path.read_text())
    record["pre_tokenizer"] = {"type": "Whitespace"}
    record["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(record))


def foreign_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(
        {**weights, "classifier.weight": weights["classifier.weight"] * 2}, folder / WEIGHTS, {"format": "pt"}
    )


def two_labels(folder: Path) -> None:
    path = folder / "config.json"
    record = json.loads(path.read_text()) | {
        "id2label": {"0": "bad", "1": "good"},
        "label2id": {"bad": 0, "good": 1},
    }
    path.write_text(json.dumps(record))


def config_of_nothing(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (other_shapes, "weights"),
        (without_head, "classifier.weight"),
        (not_a_number, "position_embeddings.weight has non-finite weights"),
        (cut_to_the_header, "weights do not load"),
        (other_tokenizer, "its tokens of the probe's texts differ"),
        (foreign_weights, "scores a text of the probe"),
        (two_labels, "2 labels"),
        (config_of_nothing, "v000002"),
    ],
)
def test_a_version_with_valid_digests_but_invalid_content_is_refused(
    store: VersionStore, spoil: Callable[[Path], None], names: str
) -> None:
    spoil(store.path("v000002"))
    resealed(store, "v000002")
    store.verify("v000002")
    with served(store) as s:
        with pytest.raises(InvalidVersionError, match=names) as refused:
            s.load("v000002")
        assert s.refusals == [("v000002", refused.value.message)]


@pytest.mark.parametrize("line", [{"scale": -1.0, "shift": 0.0}, {"scale": 1.0, "tilt": 2.0}])
def test_an_invalid_calibration_is_refused_even_if_calibration_is_off(
    store: VersionStore, checkpoint: Kinds, line: dict[str, float]
) -> None:
    name = publish(store, checkpoint("bert"), calibration=line)
    with served(store, calibrated=False) as s, pytest.raises(InvalidVersionError, match="calibration"):
        s.load(name)


def test_a_symbolic_link_is_not_accepted_as_a_version_and_the_message_explains_why(
    store: VersionStore, tmp_path: Path
) -> None:
    shutil.move(store.path("v000002"), tmp_path / "elsewhere")
    (store.root / "v000002").symlink_to(tmp_path / "elsewhere")
    with served(store) as s:

        async def main() -> None:
            live = LiveVersions(s.load_one, 2, store)
            with pytest.raises(VersionUnavailableError, match="symbolic link"):
                await live.load("v000002")

        asyncio.run(main())
        assert s.refusals == []


def test_an_unexpected_error_while_loading_is_reported_as_an_invalid_version(store: VersionStore) -> None:
    def prepare(model: RewardModel) -> None:
        raise ZeroDivisionError("no cores")

    options: dict[str, Any] = {"share_prompts": True, "reduced": False, "calibrated": True}
    loader = VersionLoader(store, 512, prepare=prepare, **options)
    with pytest.raises(InvalidVersionError, match="ZeroDivisionError: no cores"):
        asyncio.run(loader.load("v000001"))
    loader.close()


def test_versions_of_one_architecture_share_one_measured_plan(store: VersionStore) -> None:
    with served(store) as s:
        first, second = s.load("v000001", "v000002")
        assert s.planned == [first.model]
        assert second.model is not first.model


def test_a_loaded_version_has_its_manifest_and_its_calibration(store: VersionStore, checkpoint: Kinds) -> None:
    name = publish(store, checkpoint("bert"), calibration={"scale": 2.0, "shift": -1.0}, job="job-7")
    with served(store) as s:
        (version,) = s.load(name)
        assert version.manifest["job"] == "job-7"
        assert version.calibration.scores([3.0]) == [5.0]
    with served(store, calibrated=False) as s:
        assert s.load(name)[0].calibration.scores([3.0]) == [3.0]


def test_the_probe_is_checked_before_the_precision_is_reduced(store: VersionStore) -> None:
    with served(store, reduced=True) as s:
        (version,) = s.load("v000002")
        assert version.model.network.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_every_network_is_warmed_up_with_one_text_and_each_new_architecture_also_with_a_slice(
    store: VersionStore, checkpoint: Kinds, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, like_it, other = [
        publish(store, checkpoint(one)) for one in (kind, kind, "bert" if kind == "gpt2" else "gpt2")
    ]
    batches: list[tuple[int, int]] = []
    scores = RewardModel.scores

    def noted(self: RewardModel, samples: Any, batch_tokens: int = 1024, prefixes: Any = None) -> torch.Tensor:
        batches.append((sum(len(sample.ids) for sample in samples), batch_tokens))
        return scores(self, samples, batch_tokens, prefixes)

    monkeypatch.setattr(RewardModel, "scores", noted)
    with served(store) as s:
        for name in (first, like_it, other):
            s.load(name)
    probed, lone, whole, again, lone_again, of_other, lone_of_other, whole_of_other = batches
    assert probed == again
    assert lone == lone_again  # and no slice: its architecture is already warm
    for slice_tokens, batch_tokens in (whole, whole_of_other):
        assert PLAN.slice_tokens <= slice_tokens < PLAN.slice_tokens + 128
        assert batch_tokens == PLAN.batch_tokens
    assert max(lone[0], lone_of_other[0]) < 128 < of_other[0]


def test_versions_after_the_first_are_loaded_on_one_core(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores: list[int] = []
    check = probe.check

    def noted(model: RewardModel, manifest: Any) -> None:
        assert threading.current_thread().name.startswith("loader")
        cores.append(torch.get_num_threads())
        check(model, manifest)

    monkeypatch.setattr(probe, "check", noted)
    before = torch.get_num_threads()
    with served(store) as s:
        s.load("v000001", "v000002", "v000001")
    assert cores == [usable_cores(), 1, 1]
    assert torch.get_num_threads() == before  # other threads are not affected
