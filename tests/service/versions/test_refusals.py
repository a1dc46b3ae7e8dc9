from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from metarm.errors import InvalidVersionError, UnknownVersionError
from metarm.store.versions import VersionStore
from service.versions.refusals import MAX_REFUSALS, Refusals
from tests.store import weightless_store


def test_a_repeated_refusal_is_one_entry_and_is_logged_again_only_when_its_reason_changes(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[int] = []
    refused = Refusals(VersionStore(tmp_path), lambda: counted.append(1))
    with caplog.at_level(logging.ERROR):
        refused.record("v000001", "no manifest")
        refused.record("v000002", "NaN")
        refused.record("v000001", "no manifest")
        refused.record("v000001", "a flipped bit")
    second, first = refused.all()
    assert (second.name, second.reason, second.times) == ("v000002", "NaN", 1)
    assert (first.name, first.reason, first.times) == ("v000001", "a flipped bit", 3)
    assert first.first <= second.first <= first.last
    assert len(counted) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "refused v000001: no manifest",
        "refused v000002: NaN",
        "refused v000001: a flipped bit",
    ]


def test_only_the_newest_refusals_are_kept(tmp_path: Path) -> None:
    refused = Refusals(VersionStore(tmp_path), lambda: None)
    for number in range(MAX_REFUSALS + 5):
        refused.record(f"v{number:06d}", "no manifest")
    assert [refusal.name for refusal in refused.all()] == [
        f"v{number:06d}" for number in range(5, MAX_REFUSALS + 5)
    ]


class Reader:
    """Verifies versions, and counts how often it reads them."""

    def __init__(self, store: VersionStore, **options: float) -> None:
        self.store = store
        self.reads = 0
        self._refusals = Refusals(store, lambda: None, **options)

    async def load(self, name: str) -> dict[str, Any]:
        return await self._refusals.load(name, self._load)

    async def _load(self, name: str) -> dict[str, Any]:
        self.reads += 1
        return self.store.verify(name)

    def refuses(self, name: str) -> bool:
        try:
            asyncio.run(self.load(name))
        except InvalidVersionError:
            return True
        return False


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(weightless_store(tmp_path, 2))


def test_a_corrupt_version_is_read_once_for_repeated_requests_and_loads_after_repair(
    reader: Reader,
) -> None:
    weights = reader.store.path("v000002") / "model.safetensors"
    sound, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(b"wEights")
    assert all(reader.refuses("v000002") for _ in range(20))
    assert reader.reads == 1
    assert not reader.refuses("v000001")  # other versions are not affected
    weights.write_bytes(sound)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a restored backup does
    assert not any(reader.refuses("v000002") for _ in range(3))
    assert reader.reads == 5


@pytest.mark.parametrize("spoil", ["a file too many", "a file too few", "no manifest"])
def test_any_change_in_its_folder_causes_a_refused_version_to_be_read_again(reader: Reader, spoil: str) -> None:
    folder = reader.store.path("v000002")
    extra, weights, manifest = folder / "extra", folder / "model.safetensors", folder / "manifest.json"
    if spoil == "a file too many":
        extra.mkdir()
        (extra / "deep").write_text("x")
    else:
        (weights if spoil == "a file too few" else manifest).rename(folder.parent / "kept")
    assert [reader.refuses("v000002") for _ in range(3)] == [True] * 3
    assert reader.reads == 1
    if spoil == "a file too many":
        (extra / "deep").unlink()
        extra.rmdir()
    else:
        (folder.parent / "kept").rename(weights if spoil == "a file too few" else manifest)
    assert not reader.refuses("v000002")
    assert reader.reads == 2


def test_a_remembered_refusal_expires(tmp_path: Path) -> None:
    reader = Reader(weightless_store(tmp_path, 2), retry_after_s=0.0)
    (reader.store.path("v000002") / "model.safetensors").write_bytes(b"wEights")
    assert reader.refuses("v000002")
    assert reader.refuses("v000002")
    assert reader.reads == 2


def test_the_absence_of_a_version_is_not_remembered(reader: Reader) -> None:
    for _ in range(2):
        with pytest.raises(UnknownVersionError):
            asyncio.run(reader.load("v000009"))
    assert reader.reads == 2
