"""LitServe: a plain transformers forward behind LitServe's own batching, programs/litserve_app.py."""

from __future__ import annotations

from typing import Any

from bench.arms import ServerPlan, Setting
from bench.models import Kind
from bench.peers.plain import server
from bench.workload import Request

# Requests in a batch, and texts in a forward. Batches of 1 are the fastest on CPU (texts/s with 8 and 128
# connections: 33 and 29 with 1, 10 and 16 with 8, 20 and 9 with 32).
# A group is a batch by itself: its texts, which have one length, run in forwards of 4.
BEST_REQUESTS: dict[Kind, int] = {"encoder": 1, "causal": 1}
BEST_BATCH: dict[Kind, int] = {"encoder": 1, "causal": 4}
USUAL_BATCH = 8
BATCH_TIMEOUT_S = 0.005


def plan(setting: Setting) -> ServerPlan:
    options = {
        "--batch-size": str(setting.batch_size(BEST_BATCH, USUAL_BATCH)),
        "--requests-per-batch": str(setting.batch_size(BEST_REQUESTS, USUAL_BATCH)),
        "--batch-timeout-s": str(BATCH_TIMEOUT_S),
    }
    return server(setting, "litserve_app", options, "/predict", _speak, _understand)


def _speak(request: Request) -> dict[str, Any]:
    return {"pairs": request.pairs}


def _understand(answer: dict[str, Any]) -> list[float]:
    return [float(score) for score in answer["scores"]]
