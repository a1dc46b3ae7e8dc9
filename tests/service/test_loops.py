"""Every loop of a server outlives the errors of its source: they are counted, shown in /ready while they last,
and the loop works again afterwards."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarm.runtime.idle_memory import IdleMemory
from metarm.shared.cut_over import CutOverBoard
from metarm.shared.leases import LeaseBoard
from metarm.shared.presence import TrainerPresence
from metarm.shared.sample_log import SampleLog
from metarm.shared.watches import WatchBoard
from metarm.store.versions import VersionStore
from service import server as server_module
from service.oversight import oversight
from service.oversight.drift import Comparison, Figures
from service.samples.retraining import Retraining
from service.telemetry.load_monitor import LoadMonitor
from service.versions.live import LiveVersions
from tests.processes import HttpThread, RedisProcess, service_here
from tests.store import publish
from tests.tiny import Kind

STALE = OSError(errno.ESTALE, "Stale file handle")
BROKEN = RuntimeError("broken")
SOURCES: dict[str, tuple[type, str, Exception]] = {
    "swapper": (VersionStore, "current", STALE),
    "labels": (VersionStore, "labels", STALE),
    "leases": (LeaseBoard, "all", BROKEN),
    "watch": (LiveVersions, "hold", STALE),
    "watch-records": (WatchBoard, "read", BROKEN),
    "auto-retrain": (Retraining, "triggered", STALE),
    "load": (LoadMonitor, "refresh", BROKEN),
    "idle-memory": (IdleMemory, "release", STALE),
    "membership": (CutOverBoard, "state", BROKEN),
    "sample-writer": (SampleLog, "append", STALE),
    "traffic": (Figures, "of_group", BROKEN),
    "shadow": (Comparison, "of_group", BROKEN),
}
GROUPS = {"groups": [{"prompt": "a", "responses": ["b", "c"]}]}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The loops whose sources raise their error; none at first. The loops take shorter turns."""
    names: set[str] = set()
    for name, (owner, method, error) in SOURCES.items():
        working = owner.__dict__[method]

        def source(*given: Any, _name: str = name, _working: Any = working, _error: Exception = error) -> Any:
            if _name in names:
                raise type(_error)(*_error.args)
            return _working(*given)

        if isinstance(working, staticmethod):
            monkeypatch.setattr(owner, method, staticmethod(source))
        elif isinstance(working, classmethod):
            source_of = working.__func__
            monkeypatch.setattr(owner, method, classmethod(_bound(source, source_of)))
        else:
            monkeypatch.setattr(owner, method, source)
    for module, setting in [(oversight, "RETRAIN_S"), (oversight, "LOAD_S"), (server_module, "CHECK_S")]:
        monkeypatch.setattr(module, setting, 0.05)
    return names


def _bound(source: Callable[..., Any], working: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: source(*given, _working=working)


def failing(server: HttpThread) -> set[str]:
    answer = server.http.get("/ready")
    assert answer.status_code == 200
    loops = [part["reason"] for part in answer.json()["degraded"] if part["part"] == "loop"]
    return {reason.partition(" has failed")[0] for reason in loops}


def failures(server: HttpThread, name: str) -> float:
    start = f'rm_loop_failures_total{{loop="{name}"}} '
    lines = [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(start)]
    return float(lines[0].removeprefix(start)) if lines else 0.0


@pytest.mark.slow
def test_every_loop_outlives_the_errors_of_its_source_and_scoring_goes_on(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path], broken: set[str]
) -> None:
    for _ in range(2):
        publish(tmp_path, checkpoint("bert"))
    settings = {"METARM_RETRAIN": "auto", "METARM_WATCH_GROUPS": "1000", "METARM_POLL_MS": "20"}
    with service_here(tmp_path, redis_process.url, **settings) as server:

        def score() -> None:
            server.http.post("/score", json=GROUPS).raise_for_status()

        def shows_broken() -> bool:
            score()  # work for the loops that wait for answers
            return failing(server) == broken

        server.http.put("/labels/canary", json={"version": "v000001", "share": 1, "shadow": True})
        assert failing(server) == set()
        ours = {thread.name for thread in threading.enumerate()}
        broken |= SOURCES.keys() - {"swapper", "traffic"}
        publish(tmp_path, checkpoint("bert"))  # for the watch: the current version changes
        server.wait_until(lambda: server.http.get("/ready").json()["version"] == "v000003")
        broken.add("swapper")
        server.wait_until(shows_broken, 60)
        broken.add("traffic")  # last: it gives the shadow its work
        server.wait_until(shows_broken, 60)
        assert all(failures(server, name) >= 3 for name in SOURCES)
        broken.clear()
        server.wait_until(lambda: failing(server) == set(), 120)
        assert {"sample-writer", "membership"} <= ours & {thread.name for thread in threading.enumerate()}
        watching = server.http.get("/drift").json()["watch"]["watching"]
        assert (watching["version"], watching["parent"]) == ("v000003", "v000002")


def test_a_trainers_record_that_cannot_be_read_does_not_hide_the_other_parts(
    tmp_path: Path,
    redis_process: RedisProcess,
    checkpoint: Callable[[Kind], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(tmp_path, checkpoint("bert"))
    (tmp_path / "versions" / "labels.json").write_text("{")
    monkeypatch.setattr(TrainerPresence, "status", lambda _: 1 / 0)
    with service_here(tmp_path, redis_process.url, METARM_POLL_MS="20") as server:
        server.wait_until(lambda: failing(server) == {"labels"})
        degraded = server.http.get("/ready").json()["degraded"]
        assert "ZeroDivisionError" in {part["part"]: part["reason"] for part in degraded}["trainer"]
