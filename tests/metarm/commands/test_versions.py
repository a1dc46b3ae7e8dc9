"""`metarm versions` on a real store, called as a program and as a function."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from metarm.commands.versions import main
from metarm.shared.keys import LEASES
from metarm.store.versions import Label, VersionStore
from tests.processes import RedisProcess


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    store = VersionStore(tmp_path / "data" / "versions")
    store.prepare()
    return store


def publish(store: VersionStore, weights: bytes = b"weights", **manifest: Any) -> str:
    name, folder = store.stage()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(weights)
    store.publish(name, {"parent": store.current(), "method": "metarm", **manifest})
    return name


@pytest.fixture
def filled(store: VersionStore) -> VersionStore:
    """Three published versions, one of them forced, and one rejected version; the second is current."""
    publish(store, settings={"steps": 3, "ascent": "none"}, metrics={"held_out_accuracy": 0.5})
    verdict = {"accepted": True, "reasons": [], "figures": {"held_out_accuracy": 0.625}}
    publish(store, b"other", settings={"steps": 5, "ascent": "none"}, verdict=verdict)
    publish(store, verdict={"accepted": False, "forced": True, "reasons": ["worse"], "figures": {}})
    name, _ = store.stage()
    store.reject(name, {"parent": "v000002", "verdict": {"accepted": False, "reasons": ["far worse"]}})
    store.activate("v000002")
    store.set_label("stable", Label("v000001"))
    return store


@pytest.fixture
def run(store: VersionStore, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, status: int = 0) -> str:
        assert main([*arguments, "--data-dir", str(store.root.parent)]) == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.out + captured.err

    return run


def test_list_shows_every_version_and_fits_eighty_columns(filled: VersionStore, run: Any) -> None:
    lines = run("list").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[:2] for line in lines[1:]] == [
        ["v000001", "published"],
        ["v000002", "published"],
        ["v000003", "rolled"],
        ["v000004", "rejected"],
    ]
    assert "rolled back" in lines[3]
    assert "stable" in lines[1]
    assert "current" in lines[2]
    assert "0.625" in lines[2]
    rows = json.loads(run("list", "--json"))
    assert [row["status"] for row in rows] == ["published", "published", "published", "rejected"]
    assert [row["held_out_accuracy"] for row in rows] == [0.5, 0.625, None, None]
    assert [(row["rolled_back"], row.get("forced")) for row in rows[1:3]] == [(False, False), (True, True)]
    assert rows[3]["reasons"] == ["far worse"]
    filled.activate("v000003")
    assert run("list").splitlines()[3].split()[:2] == ["v000003", "forced"]


@pytest.mark.parametrize("broken", [b"{", b'{"verdict": "x"}'])
def test_list_shows_a_version_with_an_unreadable_manifest(
    filled: VersionStore, run: Any, broken: bytes
) -> None:
    (filled.path("v000003") / "manifest.json").write_bytes(broken)
    rows = json.loads(run("list", "--json"))
    assert rows[2]["status"] == "unreadable"
    assert "unreadable" in run("list")


@pytest.mark.parametrize("word", ["v000002", "current"])
def test_show_prints_the_manifest(filled: VersionStore, run: Any, word: str) -> None:
    shown = run("show", word)
    assert "settings.steps: 5" in shown
    assert "verdict.figures.held_out_accuracy: 0.625" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert json.loads(run("show", word, "--json")) == filled.manifest("v000002")


def test_show_prints_each_reason_with_its_remedy(filled: VersionStore, run: Any) -> None:
    name, _ = filled.stage()
    verdict = {"accepted": False, "reasons": ["worse", "odd"], "remedies": ["learn less", "use none"]}
    filled.reject(name, {"parent": "v000002", "verdict": verdict})
    lines = run("show", name).splitlines()
    first = lines.index("verdict.reason 1: worse")
    assert lines[first + 1 : first + 4] == [
        "verdict.remedy 1: learn less",
        "verdict.reason 2: odd",
        "verdict.remedy 2: use none",
    ]
    assert json.loads(run("show", name, "--json"))["verdict"] == verdict
    assert "remedy" not in run("show", "v000004")  # of an earlier release


def test_show_accepts_labels_and_rejected_and_pruned_versions(filled: VersionStore, run: Any) -> None:
    assert "name: v000001" in run("show", "stable")
    assert "far worse" in run("show", "v000004")
    filled.prune("v000003")
    assert "verdict.forced: true" in run("show", "v000003")
    assert "there is no version 'v000009'" in run("show", "v000009", status=1)


def test_activate_moves_the_pointer_only_to_a_version_that_passes_verification(
    filled: VersionStore, run: Any
) -> None:
    run("activate", "stable")
    assert filled.current() == "v000001"
    (filled.path("v000002") / "model.safetensors").write_bytes(b"tampered")
    assert "model.safetensors" in run("activate", "v000002", status=1)
    assert filled.current() == "v000001"
    assert json.loads(run("activate", "v000003", "--json")) == {"before": "v000001", "current": "v000003"}


def test_diff_compares_manifests_field_by_field_and_lists_the_files_that_differ(
    filled: VersionStore, run: Any
) -> None:
    found = json.loads(run("diff", "v000001", "current", "--json"))
    assert found["fields"] == {
        "parent": [None, "v000001"],
        "settings.steps": [3, 5],
        "metrics.held_out_accuracy": [0.5, None],
        "verdict.accepted": [None, True],
        "verdict.reasons": [None, []],
        "verdict.figures.held_out_accuracy": [None, 0.625],
    }
    assert found["files"] == {
        "that differ": ["model.safetensors"],
        "of v000001 alone": [],
        "of v000002 alone": [],
    }
    shown = run("diff", "v000001", "v000002")
    assert "settings.steps" in shown
    assert "files that differ: model.safetensors" in shown
    assert "ascent" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "nothing differs" in run("diff", "v000001", "v000001")


def test_verify_recomputes_every_digest_and_the_seal(filled: VersionStore, run: Any) -> None:
    assert run("verify").split() == ["v000001", "ok", "v000002", "ok", "v000003", "ok"]
    (filled.path("v000001") / "model.safetensors").write_bytes(b"weighty")
    manifest = filled.path("v000003") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"method": "metarm"', b'"method": "metaxx"'))
    shown = run("verify", status=1).splitlines()
    assert "model.safetensors" in shown[0]
    assert shown[1] == "v000002  ok"
    assert "manifest.json" in shown[2]
    assert run("verify", "current").split() == ["v000002", "ok"]
    results = json.loads(run("verify", "v000002", "v000003", "v000009", "--json", status=1))
    assert [wrong is None for wrong in results.values()] == [True, False, False]


def test_prune_deletes_the_versions_that_its_dry_run_lists(
    store: VersionStore, run: Any, redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    old = "2020-01-01T00:00:00Z"
    names = [publish(store, created=old) for _ in range(6)]
    redis_client.hset(LEASES, "a", f"{int(1000 * (time.time() + 60))} {names[1]}")
    arguments = ("prune", "--keep-versions", "2", "--redis-url", redis_process.url)
    shown = run(*arguments, "--dry-run")
    assert store.names() == names
    assert f"{names[0]}  would be pruned" in shown
    assert f"{names[1]}  stays: leased" in shown
    done = json.loads(run(*arguments, "--json"))
    assert done["pruned"] == [names[0], names[2], names[3]] == store.pruned()
    assert done["kept"][names[5]] == "current"
    assert store.names() == [names[1], names[4], names[5]]


@pytest.mark.parametrize("length", [5, 150])
def test_prune_respects_the_leases_in_the_embedded_redis_of_the_data_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    data_dir = tmp_path / ("d" * length)  # for a long path, the socket is in another directory
    store = VersionStore(data_dir / "versions")
    store.prepare()
    names = [publish(store, created="2020-01-01T00:00:00Z") for _ in range(4)]
    arguments = ["prune", "--data-dir", str(data_dir), "--keep-versions", "1"]
    with RedisProcess(data_dir / "redis") as server, server.client() as client:
        client.hset(LEASES, "a", f"{int(1000 * (time.time() + 60))} {names[0]}")
        assert main(arguments) == 0
    assert f"{names[0]}  stays: leased" in capsys.readouterr().out
    assert store.names() == [names[0], *names[2:]]


def test_prune_deletes_nothing_when_the_leases_are_unknown(
    store: VersionStore, run: Any, tmp_path: Path
) -> None:
    names = [publish(store, created="2020-01-01T00:00:00Z") for _ in range(4)]
    assert "--without-leases" in run("prune", "--keep-versions", "1", status=1)
    nobody = f"unix://{tmp_path}/nobody.sock"
    assert "does not answer" in run("prune", "--keep-versions", "1", "--redis-url", nobody, status=1)
    assert store.names() == names
    run("prune", "--keep-versions", "1", "--without-leases")
    assert store.names() == names[2:]


def test_prune_respects_the_leases_when_the_embedded_redis_has_its_socket_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / ("d" * 100)  # too long for the path of a socket
    store = VersionStore(data / "versions")
    store.prepare()
    names = [publish(store, created="2020-01-01T00:00:00Z") for _ in range(4)]
    with RedisProcess(data / "redis") as server, server.client() as client:
        client.hset(LEASES, "a", f"{int(1000 * (time.time() + 60))} {names[0]}")
        assert main(["prune", "--keep-versions", "1", "--data-dir", str(data)]) == 0
    assert f"{names[0]}  stays: leased" in capsys.readouterr().out
    assert store.names() == [names[0], *names[2:]]


@pytest.mark.parametrize(
    "arguments",
    [[], ["lists"], ["show"], ["diff", "current"], ["list", "--jason"]],
)
def test_wrong_arguments_exit_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert "metarm versions" in capsys.readouterr().err


def test_the_environment_sets_settings_but_not_arguments(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [publish(store, created="2020-01-01T00:00:00Z") for _ in range(3)]
    monkeypatch.setenv("METARM_DATA_DIR", str(store.root.parent))
    monkeypatch.setenv("METARM_KEEP_VERSIONS", "2")
    for argument in ("JSON", "AS_JSON", "DRY_RUN", "WITHOUT_LEASES", "NAME", "VERSION"):
        monkeypatch.setenv(f"METARM_{argument}", "true")
        monkeypatch.setenv(argument, "true")
    Path(".env").write_text("METARM_WITHOUT_LEASES=true\nMETARM_DRY_RUN=true\nMETARM_REDIS_URL=\n")
    assert main(["prune"]) == 1
    assert store.names() == names
    assert main(["prune", "--without-leases"]) == 0
    assert f"{names[0]}  pruned" in capsys.readouterr().out
    assert store.names() == names[1:]


LONG = "a reason that no terminal has room for, " * 10


def test_without_a_terminal_each_row_is_one_line(filled: VersionStore, run: Any) -> None:
    name, _ = filled.stage()
    filled.reject(name, {"parent": LONG, "verdict": {"reasons": [LONG]}})
    filled.set_label("stable-" + "x" * 50, Label("v000001"))
    assert [line.split()[0] for line in run("list").splitlines()] == ["version", *filled.statuses()]
    assert f" {LONG.strip()} " in run("list")
    rows = run("diff", "v000001", name).splitlines()
    assert [row for row in rows if row.startswith("verdict.reasons")] == [
        row for row in rows if json.dumps([LONG]) in row
    ]
    assert "\x1b" not in run("list")


def test_on_a_terminal_a_table_fits_the_width_and_keeps_all_text(filled: VersionStore) -> None:
    name, _ = filled.stage()
    filled.reject(name, {"parent": LONG, "verdict": {"reasons": [LONG]}})
    for command in (["list"], ["show", name], ["diff", "v000001", name], ["verify"]):
        shown = on_terminal([*command, "--data-dir", str(filled.root.parent)], columns=60)
        assert max(len(line) for line in shown.splitlines()) <= 60
        if command[0] in ("show", "diff"):
            assert "".join(LONG.split()) in "".join(shown.split())


def on_terminal(arguments: list[str], columns: int) -> str:
    """What `metarm versions` writes to a terminal, without its escape codes."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    program = [sys.executable, "-m", "metarm", "versions", *arguments]
    with subprocess.Popen(program, env=environment, stdout=theirs) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 4096):
                written += chunk
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode())


def test_list_reports_a_directory_without_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "--data-dir" in capsys.readouterr().err


def test_metarm_has_a_versions_command(filled: VersionStore) -> None:
    command = [
        sys.executable,
        "-m",
        "metarm.commands.main",
        "versions",
        "verify",
        "--data-dir",
        str(filled.root.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("ok") == 3


def test_accuracies_on_different_pairs_have_different_letters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = VersionStore(tmp_path / "versions")
    store.prepare()
    pairs = {"source": "/p/mine.jsonl", "sha256": "a" * 64, "held_out_share": 0.2, "held_out_pairs": 50}
    others = {**pairs, "sha256": "b" * 64, "source": "/p/others.jsonl"}
    for preferences in (pairs, {**pairs, "source": "/moved/mine.jsonl"}):
        publish(store, preferences=preferences, metrics={"held_out_accuracy": 0.75})
    assert main(["list", "--data-dir", str(tmp_path)]) == 0
    assert "0.750 a" not in capsys.readouterr().out
    publish(store, preferences=others, metrics={"held_out_accuracy": 0.8})
    assert main(["list", "--data-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert [shown.count(cell) for cell in ("0.750 a", "0.800 b")] == [2, 1]
    assert "accuracy b: on 50 held-out pairs of /p/others.jsonl (SHA-256 bbbbbbbbbbbb…)" in shown
