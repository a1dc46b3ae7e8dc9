"""A server like OpenRLHF's serve_rm, whose own code needs a GPU stack: programs/serve_rm.py."""

from __future__ import annotations

from typing import Any

from bench.arms import ServerPlan, Setting
from bench.models import Kind
from bench.peers.plain import server
from bench.workload import Request

# Batches of 1 are the fastest on CPU (8 requests of 64, texts/s: 32 with 1, 29 with 2, 19 with 8, 9 with the
# default, which takes a whole request). The texts of a group have one length: there, batches of 4.
BEST_BATCH: dict[Kind, int] = {"encoder": 1, "causal": 4}
USUAL_BATCH = 4096


def plan(setting: Setting) -> ServerPlan:
    options = {"--batch-size": str(setting.batch_size(BEST_BATCH, USUAL_BATCH))}
    return server(setting, "serve_rm", options, "/get_reward", _speak, _understand)


def _speak(request: Request) -> dict[str, Any]:
    return {"query": request.pairs}


def _understand(answer: dict[str, Any]) -> list[float]:
    return [float(score) for score in answer["rewards"]]
