"""`metarm up` with the user's own model, preferences and Redis."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from metarm import RewardClient
from metarm.shared.keys import SAMPLES
from metarm.store.calibration import Calibration
from metarm.store.versions import VersionStore
from tests.demo_groups import demo_groups
from tests.offline import TOLERANCE, OfflineModel
from tests.processes import RedisProcess, system
from tests.tiny import Kind

GROUPS = [
    {"prompt": f"What is {i}?", "responses": ["It is forty two.", "The first train is faster.", "Two."]}
    for i in range(8)
]


@pytest.mark.parametrize("kind", ["llama-chat", "qwen"])
def test_a_users_own_decoder_redis_and_preferences_work_end_to_end(
    kind: Kind, checkpoint: Callable[[Kind], Path], tmp_path: Path, redis_process: RedisProcess
) -> None:
    preferences = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": group["prompt"][:40]}],
            "chosen": [{"role": "assistant", "content": "It is forty two."}],
            "rejected": [{"role": "assistant", "content": "Compare the two trains."}],
        }
        for group in demo_groups(120)
    ]
    preferences.write_text("\n".join(json.dumps(row) for row in rows))
    settings = {
        "REDIS_URL": redis_process.url,
        "PREFERENCES": str(preferences),
        "METARM_MODEL": str(checkpoint(kind)),
        "METARM_MIN_GROUPS": "8",
        "METARM_SCORE_KEYS": "",  # as a compose file passes an unset variable
    }
    with system(tmp_path / "data", **settings) as process:
        process.wait_ready(240)
        names = {child.name() for child in psutil.Process(process.pid).children()}
        assert "valkey-server" not in names  # the user's own Redis is used, and none is started
        with RewardClient(process.url) as client:
            before = client.score(GROUPS, raw=True)
            job = client.wait_for_job(client.retrain(steps=4, learning_rate=1e-3)["job"], timeout_s=120)
            assert job["status"] == "published", job
            process.wait_until(lambda: client.ready()["version"] == "v000002")
            after = client.score(GROUPS, log=False, raw=True)
        assert before.version == "v000001"
        assert after.version == "v000002"
        for result in (before, after):
            store = VersionStore(tmp_path / "data" / "versions")
            line = Calibration.of(store.manifest(result.version))
            offline = OfflineModel(store.path(result.version))
            for group, scored in zip(GROUPS, result.groups, strict=True):
                expected = [offline.score(str(group["prompt"]), r) for r in group["responses"]]
                assert scored.raw == pytest.approx(expected, abs=TOLERANCE)
                assert scored.scores == pytest.approx(line.scores(expected), abs=TOLERANCE)
        process.kill(signal.SIGTERM)
        assert process.wait() == 0
    with redis_process.client() as client_:
        assert client_.xlen(SAMPLES) == len(GROUPS)  # the user's Redis keeps running
