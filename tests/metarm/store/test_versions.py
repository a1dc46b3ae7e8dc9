from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from metarm.errors import ConfigurationError, InvalidVersionError, ReadOnlyStoreError, UnknownVersionError
from metarm.model.reward_model import load_model
from metarm.store.files import MOST_BYTES, read_json
from metarm.store.manifest import MANIFEST
from metarm.store.versions import MOST_WITHDRAWN, Label, VersionStore, version_number
from tests.tiny import Kind

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)), "nested/vocab.txt": b"x\ny\n"}


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    store = VersionStore(tmp_path / "versions")
    store.prepare()
    return store


def write(folder: Path, files: Mapping[str, bytes] = FILES) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def publish(store: VersionStore) -> str:
    name, folder = store.stage()
    write(folder)
    store.publish(name, {"method": "test"})
    return name


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_store_without_writes_is_empty(tmp_path: Path) -> None:
    store = VersionStore(tmp_path / "nowhere")
    assert store.names() == store.rejected() == []
    assert store.current() is None
    with pytest.raises(UnknownVersionError):
        store.path("v000001")


@pytest.mark.parametrize("taken", ["", "versions", "versions/rejected"])
def test_a_store_that_cannot_be_made_is_a_configuration_error(tmp_path: Path, taken: str) -> None:
    file = tmp_path / "data" / taken
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match="METARM_DATA_DIR"):
        VersionStore(tmp_path / "data" / "versions").prepare()


def test_a_published_version_becomes_current_and_passes_verification(store: VersionStore) -> None:
    name = publish(store)
    assert name == "v000001"
    assert store.current() == name
    assert store.names() == [name]
    manifest = store.verify(name)
    assert manifest["digests"] == {file: digest(data) for file, data in FILES.items()}
    assert (manifest["name"], manifest["method"]) == (name, "test")
    assert store.manifest(name) == manifest
    assert {file: (store.path(name) / file).read_bytes() for file in FILES} == FILES


def test_a_staged_candidate_is_not_yet_a_version(store: VersionStore) -> None:
    first = publish(store)
    name, folder = store.stage()
    write(folder)
    assert store.names() == [first]
    assert store.current() == first
    with pytest.raises(UnknownVersionError, match=name):
        store.path(name)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_flipped_bit_in_any_file_is_detected_and_the_file_is_named(
    store: VersionStore, file: str, place: str
) -> None:
    name = publish(store)
    path = store.path(name) / file
    data = bytearray(path.read_bytes())
    data[0 if place == "first" else -1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidVersionError, match=file):
        store.verify(name)


def test_a_flipped_bit_in_the_manifest_never_lets_altered_files_pass(store: VersionStore) -> None:
    name = publish(store)
    path = store.path(name) / MANIFEST
    sealed = path.read_bytes()
    digests = store.verify(name)["digests"]
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with contextlib.suppress(InvalidVersionError):
            assert store.verify(name)["digests"] == digests


@pytest.mark.parametrize("file", [*FILES, MANIFEST])
def test_a_missing_file_is_detected(store: VersionStore, file: str) -> None:
    name = publish(store)
    (store.path(name) / file).unlink()
    with pytest.raises(InvalidVersionError, match=file):
        store.verify(name)


@pytest.mark.parametrize("file", [*FILES, MANIFEST])
def test_a_truncated_file_is_detected(store: VersionStore, file: str) -> None:
    name = publish(store)
    path = store.path(name) / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidVersionError, match=file):
        store.verify(name)


@pytest.mark.parametrize("file", ["extra.bin", "nested/extra.py", ".hidden"])
def test_an_additional_file_is_detected(store: VersionStore, file: str) -> None:
    name = publish(store)
    (store.path(name) / file).write_bytes(b"")
    with pytest.raises(InvalidVersionError, match=file):
        store.verify(name)


@pytest.mark.parametrize("file", FILES)
def test_a_file_replaced_by_a_symbolic_link_is_rejected(store: VersionStore, file: str, tmp_path: Path) -> None:
    name = publish(store)
    path = store.path(name) / file
    moved = tmp_path / "elsewhere"
    path.rename(moved)
    path.symlink_to(moved)
    with pytest.raises(InvalidVersionError, match=file):
        store.verify(name)


def test_a_directory_replaced_by_a_symbolic_link_is_rejected(store: VersionStore, tmp_path: Path) -> None:
    name = publish(store)
    nested = store.path(name) / "nested"
    nested.rename(tmp_path / "elsewhere")
    nested.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidVersionError, match="nested/vocab"):
        store.verify(name)


def test_a_manifest_replaced_by_a_symbolic_link_is_rejected(store: VersionStore, tmp_path: Path) -> None:
    path = store.path(publish(store)) / MANIFEST
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidVersionError, match="symbolic link"):
        store.verify("v000001")


def test_a_version_replaced_by_a_symbolic_link_is_not_listed(store: VersionStore, tmp_path: Path) -> None:
    first, second = publish(store), publish(store)
    store.path(first).rename(tmp_path / "elsewhere")
    (store.root / first).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnknownVersionError, match="symbolic link"):
        store.verify(first)
    assert store.names() == [second]


def test_the_manifest_of_another_version_is_rejected(store: VersionStore) -> None:
    first, second = publish(store), publish(store)
    shutil.copy(store.path(first) / MANIFEST, store.path(second) / MANIFEST)
    with pytest.raises(InvalidVersionError, match="another"):
        store.verify(second)


def test_a_manifest_in_another_format_is_rejected(store: VersionStore) -> None:
    name = publish(store)
    path = store.path(name) / MANIFEST
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"format": 1}))
    with pytest.raises(InvalidVersionError, match="format"):
        store.verify(name)


def test_version_names_are_never_reused(store: VersionStore) -> None:
    first = publish(store)
    rejected, _ = store.stage()
    store.reject(rejected, {"verdict": "worse"})
    discarded, _ = store.stage()
    store.discard(discarded)
    crashed, _ = store.stage()
    store.prepare()
    later = publish(store)
    assert [first, rejected, discarded, crashed, later] == [f"v00000{i}" for i in range(1, 6)]
    assert store.names() == [first, later]
    assert store.rejected() == [rejected]


def test_version_names_are_not_reused_when_the_counter_is_lost(store: VersionStore) -> None:
    publish(store)
    rejected, _ = store.stage()
    store.reject(rejected, {})
    (store.root / ".last").unlink()
    assert store.stage()[0] == "v000003"


def test_version_numbers_beyond_six_digits_are_ordered(store: VersionStore) -> None:
    (store.root / ".last").write_text("999998")
    assert [publish(store) for _ in range(3)] == store.names() == ["v999999", "v1000000", "v1000001"]
    assert [version_number(name) for name in store.names()] == [999_999, 1_000_000, 1_000_001]


def test_concurrent_writers_get_different_names(store: VersionStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: store.stage()[0], range(40)))
    assert sorted(names) == [f"v{i:06d}" for i in range(1, 41)]


def test_only_the_staged_files_of_a_crashed_writer_are_deleted(store: VersionStore) -> None:
    kept = publish(store)
    name, folder = store.stage()
    write(folder)
    VersionStore(store.root).prepare()
    assert not folder.exists()
    assert store.current() == kept
    store.verify(kept)
    with pytest.raises(UnknownVersionError):
        store.path(name)


def test_a_rejected_candidate_keeps_its_manifest_and_loses_its_weights(store: VersionStore) -> None:
    current = publish(store)
    name, folder = store.stage()
    write(folder)
    store.reject(name, {"job": "job-1"})
    assert not folder.exists()
    assert store.current() == current
    assert store.manifest(name)["job"] == "job-1"
    with pytest.raises(UnknownVersionError):
        store.activate(name)


def test_activation_rolls_back_and_forward(store: VersionStore) -> None:
    first, second = publish(store), publish(store)
    assert store.current() == second
    store.activate(first)
    assert store.current() == first
    assert (store.root / "current").resolve() == store.path(first).resolve()
    store.activate(second)
    assert store.current() == second
    assert store.names() == [first, second]


def test_a_version_left_for_an_older_one_is_withdrawn_until_it_is_activated_again(
    store: VersionStore,
) -> None:
    first, second, third = (publish(store) for _ in range(3))
    assert store.withdrawn() == []
    store.activate(first)
    assert store.withdrawn() == [third]
    store.activate(second)  # a move forward, but not to the withdrawn version
    assert store.withdrawn() == [third]
    store.activate(second)
    store.activate(first)
    assert store.withdrawn() == [second, third]
    store.activate(third)
    assert store.withdrawn() == [second]
    fourth = publish(store)
    assert store.withdrawn() == [second]
    assert store.current() == fourth


@pytest.mark.parametrize("back", [True, False])
def test_an_activation_whose_condition_fails_changes_nothing(store: VersionStore, back: bool) -> None:
    names = [publish(store) for _ in range(3)]
    store.activate(names[1])
    asked: list[str | None] = []

    def no_longer() -> bool:
        asked.append(store.current())
        return False

    assert not store.activate(names[0] if back else names[2], no_longer)
    assert asked == [names[1]]
    assert (store.current(), store.withdrawn()) == (names[1], [names[2]])
    assert list(store.root.glob(".current-*")) == []
    assert store.activate(names[2], lambda: True)
    assert (store.current(), store.withdrawn()) == (names[2], [])


def test_an_unreadable_list_of_withdrawn_versions_raises_an_error(
    store: VersionStore,
) -> None:
    first, second = publish(store), publish(store)
    (store.root / ".withdrawn").write_bytes(b'{"versions": ["../x"]}')
    with pytest.raises(InvalidVersionError, match="withdrawn"):
        store.withdrawn()
    store.activate(first)  # the pointer moves nevertheless
    assert store.current() == first != second


@pytest.mark.parametrize("name", ["v000009", "v1", "current", "..", "", "v000001/../v000001", "rejected"])
def test_only_a_published_version_can_be_activated(store: VersionStore, name: str) -> None:
    first = publish(store)
    with pytest.raises(UnknownVersionError):
        store.activate(name)
    assert store.current() == first


def test_a_reader_always_sees_a_complete_version_while_the_pointer_moves(store: VersionStore) -> None:
    names = [publish(store), publish(store)]
    seen: set[str | None] = set()
    stop = threading.Event()

    def read_pointer() -> None:
        while not stop.is_set():
            seen.add(store.current())

    def read_through_pointer() -> None:
        while not stop.is_set():
            seen.add(orjson.loads((store.root / "current" / MANIFEST).read_bytes())["name"])

    with ThreadPoolExecutor(3) as threads:
        reading = [threads.submit(read) for read in (read_pointer, read_pointer, read_through_pointer)]
        for i in range(200):
            store.activate(names[i % 2])
        stop.set()
        for reader in reading:
            reader.result()
    assert seen == set(names)


def test_concurrent_activations_do_not_disturb_one_another(store: VersionStore) -> None:
    names = [publish(store), publish(store)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: store.activate(names[i % 2]), range(40)))
    assert store.current() in names
    assert not list(store.root.glob(".current-*"))


@pytest.mark.parametrize("target", ["v1", "../outside", "rejected", "current", "v000001/nested", "/"])
def test_a_pointer_to_an_invalid_name_is_rejected(store: VersionStore, target: str) -> None:
    publish(store)
    (store.root / "current").unlink()
    (store.root / "current").symlink_to(target)
    with pytest.raises(InvalidVersionError, match="current"):
        store.current()


def test_a_write_to_a_read_only_store_raises_an_error(store: VersionStore, tmp_path: Path) -> None:
    name = publish(store)
    (store.root / ".lock").unlink()
    (store.root / ".lock").mkdir()  # not even root can open a directory for writing
    with pytest.raises(ReadOnlyStoreError, match="cannot be written"):
        store.activate(name)
    with pytest.raises(ReadOnlyStoreError):
        store.stage()
    with pytest.raises(ReadOnlyStoreError):
        VersionStore(tmp_path / "nowhere").stage()
    assert store.current() == name
    store.verify(name)


@pytest.mark.parametrize("kind", ["bert", "llama-chat", "llama-without-pad"])
def test_transformers_loads_the_current_version_from_its_path(
    store: VersionStore, checkpoint: Callable[[Kind], Path], kind: Kind
) -> None:
    model = load_model(checkpoint(kind), 128)
    name, folder = store.stage()
    model.save(folder)
    store.publish(name, {})
    store.verify(name)
    current = store.root / "current"
    network, loading = AutoModelForSequenceClassification.from_pretrained(current, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    ours = model.network.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in network.state_dict().items())
    text = "What is seventeen plus twenty five?"
    assert AutoTokenizer.from_pretrained(current)(text).input_ids == model.encoder.tokenizer(text).input_ids


def test_a_flipped_bit_anywhere_in_the_manifest_is_detected(store: VersionStore) -> None:
    name = publish(store)
    file = store.path(name) / MANIFEST
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InvalidVersionError):
            store.verify(name)
    file.write_bytes(whole)
    store.verify(name)


def test_a_version_can_be_published_without_becoming_current(store: VersionStore) -> None:
    first = publish(store)
    name, folder = store.stage()
    write(folder)
    store.publish(name, {}, activate=False)
    assert store.names() == [first, name]
    assert store.current() == first


def test_a_label_names_a_version_and_can_be_moved(store: VersionStore) -> None:
    first, second = publish(store), publish(store)
    assert store.labels() == {}
    store.set_label("stable", Label(first))
    store.set_label("canary", Label(second, share=0.1, shadow=True))
    assert store.labels() == {"stable": Label(first), "canary": Label(second, 0.1, True)}
    store.set_label("stable", Label(second))
    store.remove_label("canary")
    assert VersionStore(store.root).labels() == {"stable": Label(second)}


def test_a_label_for_an_unknown_version_and_a_missing_label_are_rejected(store: VersionStore) -> None:
    publish(store)
    with pytest.raises(UnknownVersionError, match="v000009"):
        store.set_label("stable", Label("v000009"))
    with pytest.raises(UnknownVersionError, match="there is no label 'stable'"):
        store.remove_label("stable")


@pytest.mark.parametrize(
    "labels",
    [
        b'{"stable": {"name": "v000001"}}',
        b'{"stable": {"version": "../v000001"}}',
        b'{"stable": {"version": 1}}',
        b'{"canary": {"version": "v000001", "share": "much"}}',
        b'{"canary": {"version": "v000001", "share": 2}}',
        b'["v000001"]',
        b'{"stable": null}',
    ],
)
def test_unreadable_labels_raise_an_error(store: VersionStore, labels: bytes) -> None:
    publish(store)
    (store.root / "labels.json").write_bytes(labels)
    with pytest.raises(InvalidVersionError, match=r"labels\.json"):
        store.labels()


def test_an_error_names_the_newest_versions_and_how_many_there_are(store: VersionStore) -> None:
    for number in range(1, 301):
        (store.root / f"v{number:06d}").mkdir()
    with pytest.raises(UnknownVersionError) as unknown:
        store.path("v000999")
    assert unknown.value.details == {
        "known": [f"v{number:06d}" for number in range(281, 301)],
        "known_count": 300,
    }


def test_the_list_of_withdrawn_versions_forgets_the_oldest_that_are_not_on_disk(store: VersionStore) -> None:
    old, current, newer = publish(store), publish(store), publish(store)
    gone = [f"v{number:06d}" for number in range(10, 310)]
    (store.root / ".withdrawn").write_bytes(orjson.dumps({"versions": [old, *gone]}))
    store.activate(newer)
    store.activate(current)
    assert store.withdrawn() == [old, newer, *gone[-MOST_WITHDRAWN:]]


def test_labels_are_read_again_only_when_they_have_changed(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def counted(path: Path) -> dict[str, Any]:
        reads.append(path)
        return read_json(path)

    monkeypatch.setattr("metarm.store.versions.read_json", counted)
    name = publish(store)
    other = VersionStore(store.root)  # of another process
    for share in (0.25, 0.5):
        other.set_label("canary", Label(name, share))
        assert store.labels() == {"canary": Label(name, share)}  # at once, although it was just written
    os.utime(store.root / "labels.json", (1e9, 1e9))
    store.labels()
    reads.clear()
    assert [store.labels() for _ in range(10)] == [{"canary": Label(name, 0.5)}] * 10
    assert reads == []
    other.remove_label("canary")
    assert store.labels() == {}


@pytest.mark.parametrize("file", [MANIFEST, "curve.json"])
def test_a_file_of_a_hundred_megabytes_is_refused_and_not_read(store: VersionStore, file: str) -> None:
    name = publish(store)
    with (store.root / name / file).open("wb") as huge:
        huge.truncate(100 * 2**20)
    tracemalloc.start()
    with pytest.raises(InvalidVersionError, match=f"{file} has over {MOST_BYTES} bytes"):
        store.manifest(name) if file == MANIFEST else store.curve(name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MOST_BYTES
