"""All arms, by the model that they score with."""

from __future__ import annotations

from functools import partial

from bench import ours
from bench.arms import Arm, OfflineArm, ServerArm, Setting
from bench.models import Kind
from bench.peers import cross_encoder, infinity, litserve, serve_rm
from bench.peers.environment import INFINITY, PLAIN, Environment

MIXED = frozenset({"1x1", "8x1", "32x1", "128x1", "8x64"})
OFFLINE = frozenset({"128x1"})  # all of its texts at once
GROUPS = frozenset({"grpo"})
FLOAT32, EXPORTED = 1e-4, 1e-3  # the largest difference from the reference scores

OURS, OFFLINE_OURS, NO_PREFIX = "ours", "offline", "ours-no-prefix"
BEFORE = "before"  # the service of another checkout
TORCH, OPTIMUM = "infinity-torch", "infinity-optimum"
LITSERVE, SERVE_RM, CROSS_ENCODER = "litserve", "serve_rm", "cross-encoder"
NAMES = (OURS, NO_PREFIX, OFFLINE_OURS, TORCH, OPTIMUM, LITSERVE, SERVE_RM, CROSS_ENCODER)
PEERS = (TORCH, OPTIMUM, LITSERVE, SERVE_RM)
ENVIRONMENTS: dict[str, Environment] = {
    TORCH: INFINITY,
    OPTIMUM: INFINITY,
    LITSERVE: PLAIN,
    SERVE_RM: PLAIN,
    CROSS_ENCODER: PLAIN,
}


def roster(kind: Kind, setting: Setting) -> list[Arm]:
    """The arms of a model, not yet started or installed."""
    loads = MIXED if kind == "encoder" else GROUPS
    arms: list[Arm] = [
        ServerArm(OURS, loads, FLOAT32, partial(ours.service, OURS, setting, {})),
        ServerArm(TORCH, loads, FLOAT32, partial(infinity.plan, "torch", setting)),
        ServerArm(OPTIMUM, loads, EXPORTED, partial(infinity.plan, "optimum", setting)),
        ServerArm(LITSERVE, loads, FLOAT32, partial(litserve.plan, setting)),
        ServerArm(SERVE_RM, loads, FLOAT32, partial(serve_rm.plan, setting)),
    ]
    if setting.before:
        plan = partial(ours.service, BEFORE, setting, {}, setting.before)
        arms.append(ServerArm(BEFORE, loads, FLOAT32, plan))
    if kind == "encoder":
        arms += [
            OfflineArm(OFFLINE_OURS, OFFLINE, FLOAT32, partial(ours.offline, setting)),
            OfflineArm(CROSS_ENCODER, OFFLINE, FLOAT32, partial(cross_encoder.plan, setting)),
        ]
    else:
        alone = {"METARM_PREFIX_SHARING": "false"}
        arms.append(ServerArm(NO_PREFIX, loads, FLOAT32, partial(ours.service, NO_PREFIX, setting, alone)))
    return arms
