"""Threads, and the cores to which the kernel has bound them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from service.scoring.engine import PARALLEL_WORK, Placement

ALLOWED = sorted(os.sched_getaffinity(0))
several_cores = pytest.mark.skipif(len(ALLOWED) < 2, reason="one core")


def in_thread(work: Callable[[], Any]) -> Any:
    """Run `work` as a worker does: torch's threads belong to the thread that started them, and end with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def run_parallel() -> set[int]:
    """Make torch use all its threads, and return the ids of the threads that Python did not start."""
    torch.zeros(torch.get_num_threads() * PARALLEL_WORK).add_(1)
    everyone = {int(task.name) for task in Path("/proc/self/task").iterdir()}
    return everyone - {thread.native_id for thread in threading.enumerate()}


def affinities(threads: Iterable[int]) -> list[list[int]]:
    return sorted(sorted(os.sched_getaffinity(thread)) for thread in threads)


@several_cores
def test_a_forward_on_all_cores_binds_one_thread_to_each_core() -> None:
    def work() -> None:
        torch.set_num_threads(1)
        before = run_parallel()
        placement = Placement(0, None, bind=True)
        for share in (len(ALLOWED), 1, 2, len(ALLOWED)):
            with placement.on(1, share):
                assert torch.get_num_threads() == share
                if share == len(ALLOWED):
                    (own,) = os.sched_getaffinity(0)
                    started = run_parallel() - before
                    assert affinities(started) == [[cpu] for cpu in ALLOWED if cpu != own]
            assert sorted(os.sched_getaffinity(0)) == ALLOWED

    in_thread(work)


@several_cores
def test_two_workers_bind_their_own_threads_to_different_cores() -> None:
    def own(worker: int) -> set[int]:
        with Placement(worker, None, bind=True).on(1, len(ALLOWED)):
            return os.sched_getaffinity(0)

    assert [in_thread(partial(own, worker)) for worker in (0, 1)] in [
        [{ALLOWED[i]}, {ALLOWED[(i + 1) % len(ALLOWED)]}] for i in range(len(ALLOWED))
    ]


@several_cores
@pytest.mark.parametrize(("share", "bind"), [(1, True), (len(ALLOWED), False)])
def test_a_single_thread_or_an_unbound_worker_is_left_to_the_kernels_scheduler(share: int, bind: bool) -> None:
    def work() -> None:
        torch.set_num_threads(1)
        before = run_parallel()
        with Placement(0, None, bind=bind).on(1, share):
            assert torch.get_num_threads() == share
            assert sorted(os.sched_getaffinity(0)) == ALLOWED
            assert affinities(run_parallel() - before) == [ALLOWED] * (share - 1)

    in_thread(work)


def test_a_share_uses_at_most_one_thread_per_core() -> None:
    def threads(*arguments: int) -> int:
        with Placement(0, None, bind=True).on(*arguments):
            return torch.get_num_threads()

    assert in_thread(lambda: threads(1, len(ALLOWED) + 3)) == len(ALLOWED)


def test_the_configured_thread_count_is_used_even_on_fewer_cores() -> None:
    def threads() -> int:
        with Placement(0, None, bind=False).on(len(ALLOWED) + 1, 2):
            return torch.get_num_threads()

    assert in_thread(threads) == len(ALLOWED) + 1


def test_the_core_binding_is_undone_after_a_failure() -> None:
    def work() -> None:
        with pytest.raises(RuntimeError, match="forward"), Placement(0, None, bind=True).on(1, len(ALLOWED)):
            raise RuntimeError("forward")
        assert sorted(os.sched_getaffinity(0)) == ALLOWED

    in_thread(work)


def test_a_worker_stays_on_the_cores_of_its_node() -> None:
    def work() -> set[int]:
        Placement(0, ALLOWED[-1:], bind=True)
        return os.sched_getaffinity(0)

    assert in_thread(work) == {ALLOWED[-1]}
    assert sorted(os.sched_getaffinity(0)) == ALLOWED


def test_a_failure_to_bind_cores_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: int, _cpus: object) -> None:
        raise OSError("invalid argument")

    def work() -> list[int]:
        placement, counts = Placement(0, None, bind=True), []
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        for _ in range(2):
            with placement.on(1, len(ALLOWED)):
                counts.append(torch.get_num_threads())
        return counts

    with caplog.at_level(logging.WARNING):
        assert in_thread(work) == [len(ALLOWED)] * 2
    assert len(ALLOWED) == 1 or "not bound to cores" in caplog.text


@several_cores
def test_a_worker_is_unbound_if_binding_fails_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    allow = os.sched_setaffinity
    asked: list[list[int]] = []

    def refuse_the_last_of_a_team(thread: int, cpus: Sequence[int]) -> None:
        asked.append(list(cpus))
        if len(asked) == len(ALLOWED):  # the other threads are bound first, then the worker's own
            raise OSError("invalid argument")
        allow(thread, cpus)

    def work() -> None:
        placement = Placement(0, None, bind=True)
        monkeypatch.setattr(os, "sched_setaffinity", refuse_the_last_of_a_team)
        with placement.on(1, len(ALLOWED)):
            assert len(os.sched_getaffinity(0)) == 1
        assert sorted(os.sched_getaffinity(0)) == ALLOWED

    in_thread(work)
