"""The CPU cores and NUMA nodes that a process may use, read from directories laid out as the kernel's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarm.runtime.cores import numa_nodes, usable_cores, worker_cpus


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0, 1, 2, 3, 4, 5, 6, 7)


def allow(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(cpus))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def limit_v2(root: Path, text: str) -> None:
    write(root / "sys/fs/cgroup/cpu.max", text)


def limit_v1(root: Path, quota_us: int, period_us: int) -> None:
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota_us}\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", f"{period_us}\n")


def node(root: Path, number: int, cpus: str) -> None:
    write(root / f"sys/devices/system/node/node{number}/cpulist", f"{cpus}\n")


@pytest.mark.usefixtures("eight_cpus")
def test_without_a_limit_every_cpu_of_the_affinity_is_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cores(tmp_path) == 8
    allow(monkeypatch, 1, 5, 6)
    assert usable_cores(tmp_path) == 3


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("50000 25000", 2),
        ("250000 100000", 2),  # two and a half cores: a thread on the half core would only delay the others
        ("50000 100000", 1),
        ("1600000 100000", 8),
    ],
)
def test_a_cgroup_v2_quota_limits_the_cores(tmp_path: Path, limit: str, cores: int) -> None:
    limit_v2(tmp_path, f"{limit}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("quota_us", "period_us", "cores"),
    [(-1, 100_000, 8), (400_000, 100_000, 4), (150_000, 50_000, 3), (20_000, 100_000, 1)],
)
def test_a_cgroup_v1_quota_limits_the_cores(tmp_path: Path, quota_us: int, period_us: int, cores: int) -> None:
    limit_v1(tmp_path, quota_us, period_us)
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cpus")
def test_the_cgroup_v2_quota_takes_precedence_over_v1(tmp_path: Path) -> None:
    limit_v1(tmp_path, 100_000, 100_000)
    limit_v2(tmp_path, "600000 100000\n")
    assert usable_cores(tmp_path) == 6


@pytest.mark.usefixtures("eight_cpus")
def test_an_affinity_narrower_than_the_cgroup_quota_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_v2(tmp_path, "600000 100000\n")
    allow(monkeypatch, 3, 4)
    assert usable_cores(tmp_path) == 2


@given(st.sets(st.integers(0, 200), min_size=1))
def test_the_cpu_list_of_a_node_is_parsed_with_its_ranges(cpus: set[int]) -> None:
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][-1] + 1:
            ranges[-1].append(cpu)
        else:
            ranges.append([cpu])
    text = ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        allow(monkeypatch, *range(201))
        node(Path(folder), 0, text)
        assert numa_nodes(Path(folder)) == [sorted(cpus)]


@pytest.mark.usefixtures("eight_cpus")
def test_each_numa_node_lists_its_usable_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node(tmp_path, 0, "0-1,4-5")
    node(tmp_path, 1, "2-3,6-7")
    assert numa_nodes(tmp_path) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    allow(monkeypatch, 1, 2, 6)
    assert numa_nodes(tmp_path) == [[1], [2, 6]]
    allow(monkeypatch, 2, 6)
    assert numa_nodes(tmp_path) == [[2, 6]]  # a node without a usable CPU is left out


@pytest.mark.usefixtures("eight_cpus")
def test_a_machine_that_does_not_report_its_nodes_counts_as_one_node(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path) == [list(range(8))]


@pytest.mark.usefixtures("eight_cpus")
def test_workers_are_distributed_over_the_nodes(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-3")
    node(tmp_path, 1, "4-7")
    one, other = [0, 1, 2, 3], [4, 5, 6, 7]
    assert worker_cpus(2, tmp_path) == [one, other]
    assert worker_cpus(4, tmp_path) == [one, one, other, other]
    assert worker_cpus(8, tmp_path) == [one] * 4 + [other] * 4


@pytest.mark.usefixtures("eight_cpus")
def test_a_worker_that_needs_several_nodes_is_pinned_to_none(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-3")
    node(tmp_path, 1, "4-7")
    assert worker_cpus(1, tmp_path) == [None]


@pytest.mark.usefixtures("eight_cpus")
def test_a_node_without_cpus_is_ignored(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-7")
    node(tmp_path, 1, "")  # CXL, HBM, a GH200's GPU memory
    assert numa_nodes(tmp_path) == [list(range(8))]


@pytest.mark.usefixtures("eight_cpus")
def test_on_a_single_node_workers_are_not_pinned(tmp_path: Path) -> None:
    node(tmp_path, 0, "0-7")
    assert worker_cpus(3, tmp_path) == [None, None, None]


def test_this_machine_is_read_without_an_error() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert sorted(cpu for cpus in numa_nodes() for cpu in cpus) == sorted(os.sched_getaffinity(0))
    assert len(worker_cpus(2)) == 2
