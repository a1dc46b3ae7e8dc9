"""Peers that serve a plain transformers forward by a program of bench/peers/programs: how it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.arms import ServerPlan, Setting
from bench.peers.environment import PLAIN
from bench.places import THREADS
from bench.workload import Request


def server(
    setting: Setting,
    program: str,
    options: Mapping[str, str],
    score_path: str,
    speak: Callable[[Request], dict[str, Any]],
    understand: Callable[[dict[str, Any]], list[float]],
) -> ServerPlan:
    """The plan of `bench/peers/programs/PROGRAM.py` on the checkpoint, with further `options`."""
    PLAIN.install()
    checkpoint = setting.checkpoint
    common = {
        "--model": str(checkpoint.path),
        "--max-tokens": str(checkpoint.max_tokens),
        "--threads": str(THREADS),
    }
    named = [part for option in {**common, **options}.items() for part in option]
    return ServerPlan(
        command=lambda port: [
            *[str(PLAIN.python), "-m", f"bench.peers.programs.{program}"],
            *[*named, "--port", str(port)],
        ],
        folder=setting.folder / program,
        settings=lambda _: {},
        ready_path="/health",
        score_path=score_path,
        speak=speak,
        understand=understand,
    )
