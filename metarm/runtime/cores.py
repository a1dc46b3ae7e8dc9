"""The cores that this process may use: CPU affinity, cgroup quota, NUMA nodes."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores in the CPU affinity, or fewer if a cgroup quota limits their time."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(root / "sys/fs/cgroup")
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def numa_nodes(root: Path = Path("/")) -> list[list[int]]:
    """The usable CPUs of each NUMA node; one list if the machine does not report nodes."""
    allowed = os.sched_getaffinity(0)
    files = sorted((root / "sys/devices/system/node").glob("node[0-9]*/cpulist"))
    nodes = [[cpu for cpu in _cpu_list(file.read_text()) if cpu in allowed] for file in files]
    return [node for node in nodes if node] or [sorted(allowed)]


def worker_cpus(workers: int, root: Path = Path("/")) -> list[list[int] | None]:
    """The CPUs of each worker thread: those of one NUMA node, in contiguous blocks of workers. None if
    there is a single node, or fewer workers than nodes."""
    nodes = numa_nodes(root)
    if len(nodes) == 1 or workers < len(nodes):
        return [None] * workers
    return [nodes[number * len(nodes) // workers] for number in range(workers)]


def _quota(cgroup: Path) -> float | None:
    """The cores that the cgroup (version 2, else 1) allows; None without a limit."""
    files = {"v2": cgroup / "cpu.max", "v1": cgroup / "cpu/cpu.cfs_quota_us"}
    if files["v2"].is_file():
        quota, period = files["v2"].read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    if files["v1"].is_file():
        microseconds = int(files["v1"].read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return None if microseconds < 0 else microseconds / period_us
    return None


def _cpu_list(text: str) -> list[int]:
    """0-3,8 → [0, 1, 2, 3, 8]"""
    cpus: list[int] = []
    for part in text.strip().split(",") if text.strip() else []:  # a node may have memory only
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
