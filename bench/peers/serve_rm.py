"""A server in the manner of OpenRLHF's serve_rm (its code needs a GPU stack): programs/serve_rm.py."""

from __future__ import annotations

from typing import Any

from bench.arms import ServerPlan, Setting
from bench.models import Kind
from bench.peers.plain import server
from bench.workload import Request

# One text a forward is its best on CPU (8 requests of 64, texts/s: 32 one by one, 29 in twos, 19 in eights,
# 9 in its own default, a request at once). Groups are of one length: fours.
BEST_BATCH: dict[Kind, int] = {"encoder": 1, "causal": 4}
USUAL_BATCH = 4096


def plan(setting: Setting) -> ServerPlan:
    options = {"--batch-size": str(setting.batch_size(BEST_BATCH, USUAL_BATCH))}
    return server(setting, "serve_rm", options, "/get_reward", _speak, _understand)


def _speak(request: Request) -> dict[str, Any]:
    return {"query": request.pairs}


def _understand(answer: dict[str, Any]) -> list[float]:
    return [float(score) for score in answer["rewards"]]
