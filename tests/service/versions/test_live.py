"""Which version answers a request and which versions stay in memory, with loads that the test controls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from metarm.errors import InvalidVersionError, NotReadyError, UnknownVersionError, VersionUnavailableError
from metarm.model.reward_model import RewardModel, load_model
from metarm.store.versions import Label, VersionStore
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.refusals import Refusals
from tests.store import weightless_store
from tests.tiny import Kind

FIRST, SECOND, THIRD, FOURTH, FIFTH = (f"v00000{number}" for number in range(1, 6))


class ControlledLoader:
    """Loads versions from a store. Names in `blocked` wait for their event, names in `broken` are refused."""

    def __init__(self, store: VersionStore, model: RewardModel) -> None:
        self._store = store
        self._model = model
        self.loads: Counter[str] = Counter()
        self.blocked: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()
        self.counts: list[int] = []

    async def load(self, name: str) -> LoadedVersion:
        self.loads[name] += 1
        if name in self.blocked:
            await self.blocked[name].wait()
        if name in self.broken:
            raise InvalidVersionError(f"{name} is broken")
        self._store.path(name)
        return LoadedVersion(name, self._model)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    """Five versions without weights. The second is current."""
    return weightless_store(tmp_path, 5, current=2)


@pytest.fixture
def loader(store: VersionStore, checkpoint: Callable[[Kind], Path]) -> ControlledLoader:
    return ControlledLoader(store, load_model(checkpoint("bert"), 128))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


async def live_model(loader: ControlledLoader, store: VersionStore, keep: int = 2) -> LiveVersions:
    live = LiveVersions(loader.load, keep, store, loader.counts.append)
    await live.make_current(SECOND)
    return live


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_without_a_current_version_no_request_is_answered(
    loader: ControlledLoader, store: VersionStore
) -> None:
    live = LiveVersions(loader.load, 2, store)
    with pytest.raises(NotReadyError):
        asyncio.run(live.get(None, None))


def test_a_pin_selects_a_version_or_label_and_the_current_version_answers_other_requests(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        live.labels = {"stable": Label(FIRST)}
        assert (await live.get(None, None)).name == SECOND
        assert (await live.get(FOURTH, None)).name == FOURTH
        assert (await live.get("stable", None)).name == FIRST

    run(main())


def test_an_unsatisfiable_pin_lists_the_available_versions_and_labels(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        live.labels = {"stable": Label(FIRST)}
        for pin, least in (("v000009", None), ("canary", None), (None, "v000009"), ("stable", SECOND)):
            with pytest.raises(VersionUnavailableError) as refused:
                await live.get(pin, least)
            assert refused.value.details == {
                "current": SECOND,
                "loaded": [SECOND],
                "on_disk": [FIRST, SECOND, THIRD, FOURTH, FIFTH],
                "withdrawn": [],
                "labels": {"stable": FIRST},
            }

    run(main())


def test_the_current_version_answers_any_min_version_that_it_satisfies(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        assert (await live.get(None, FIRST)).name == SECOND
        assert (await live.get(None, SECOND)).name == SECOND

    run(main())


def test_a_newer_min_version_selects_the_version_pointed_to_or_the_oldest_that_satisfies_it(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        assert (await live.get(None, THIRD)).name == THIRD
        store.activate(FOURTH)  # this server has not swapped yet
        assert (await live.get(None, THIRD)).name == FOURTH
        assert (await live.get(None, FIFTH)).name == FIFTH

    run(main())


def test_a_withdrawn_version_satisfies_no_min_version(loader: ControlledLoader, store: VersionStore) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        store.activate(FIFTH)
        store.activate(SECOND)
        with pytest.raises(VersionUnavailableError) as refused:
            await live.get(None, FIFTH)
        assert refused.value.details["withdrawn"] == [FIFTH]
        assert (await live.get(FIFTH, None)).name == FIFTH  # an exact pin still gets it
        with pytest.raises(VersionUnavailableError):
            await live.get(None, FIFTH)

    run(main())


def test_versions_beyond_the_limit_are_dropped_by_last_use_but_never_the_current_version(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store, keep=3)
        for name in (FIRST, THIRD):
            await live.load(name)
        await live.load(FIRST)
        await live.load(FOURTH)
        await settle()
        assert live.loaded_names == [FIRST, SECOND, FOURTH]
        assert loader.counts[-1] == 3

    run(main())


def test_a_version_in_use_stays_loaded_beyond_the_limit_until_its_last_request_ends(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        first = await live.get(FIRST, None)
        with live.using(first):
            with live.using(first):
                for name in (THIRD, FOURTH):
                    await live.load(name)
                    await settle()
            await settle()
            assert live.loaded_names == [FIRST, SECOND]
            with live.using(await live.get(FIFTH, None)):
                await settle()
                assert live.loaded_names == [FIRST, SECOND, FIFTH]
                assert loader.counts[-1] == 3
        await settle()
        assert live.loaded_names == [SECOND, FIFTH]
        assert live.loaded(FIRST) is None

    run(main())


def test_a_version_is_not_dropped_between_its_load_and_the_request_that_waits_for_it(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        await live.hold("labels", [FIRST])

        async def request() -> LoadedVersion:
            version = await live.get(THIRD, None)
            with live.using(version):
                await settle()
                assert live.loaded(THIRD) is version
            return version

        loader.blocked[THIRD] = asyncio.Event()
        requests = [asyncio.create_task(request()) for _ in range(3)]
        await settle()
        loader.blocked[THIRD].set()
        versions = await asyncio.gather(*requests)
        assert loader.loads[THIRD] == 1
        assert len(set(versions)) == 1
        await settle()
        assert live.loaded_names == [FIRST, SECOND]  # both are held or current, so the third is dropped

    run(main())


def test_a_held_version_stays_loaded_until_every_source_releases_it(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        await live.hold("leases", [FIRST, THIRD])
        await live.hold("labels", [FIRST])
        await live.load(FOURTH)
        await settle()
        assert live.loaded_names == [FIRST, SECOND, THIRD]
        await live.hold("leases", [])
        await settle()
        assert live.loaded_names == [FIRST, SECOND]
        await live.hold("labels", [])
        await live.load(FOURTH)
        await settle()
        assert live.loaded_names == [SECOND, FOURTH]

    run(main())


def test_a_failed_hold_keeps_the_previous_hold(loader: ControlledLoader, store: VersionStore) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        await live.hold("cutover", [FIRST])
        loader.broken.add(THIRD)
        with pytest.raises(InvalidVersionError):
            await live.hold("cutover", [THIRD])
        for name in (FOURTH, FIFTH):
            await live.load(name)
            await settle()
        assert live.loaded_names == [FIRST, SECOND]

    run(main())


def test_a_failed_load_changes_nothing_and_is_retried_on_the_next_request(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        await live.load(FIRST)
        loader.broken.add(THIRD)
        failures = await asyncio.gather(*(live.get(THIRD, None) for _ in range(3)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [InvalidVersionError] * 3
        with pytest.raises(InvalidVersionError):
            await live.make_current(THIRD)
        assert (live.current_name, live.loaded_names) == (SECOND, [FIRST, SECOND])
        assert loader.loads[THIRD] == 2
        loader.broken.clear()
        await live.make_current(THIRD)
        assert live.current_name == THIRD

    run(main())


def test_a_version_missing_from_the_store_is_reported_as_unavailable(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        with pytest.raises(VersionUnavailableError) as refused:
            await live.load("v000009")
        assert isinstance(refused.value.__cause__, UnknownVersionError)

    run(main())


def test_a_slow_load_delays_only_the_requests_for_that_version(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store, keep=3)
        loader.blocked[THIRD] = asyncio.Event()
        waiting = asyncio.create_task(live.get(THIRD, None))
        await settle()
        assert (await live.get(None, None)).name == SECOND
        assert (await live.get(FIRST, None)).name == FIRST
        assert not waiting.done()
        loader.blocked[THIRD].set()
        assert (await waiting).name == THIRD

    run(main())


def test_a_cancelled_waiter_does_not_cancel_the_load_for_other_waiters(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        loader.blocked[THIRD] = asyncio.Event()
        gone, staying = (asyncio.create_task(live.get(THIRD, None)) for _ in range(2))
        await settle()
        gone.cancel()
        await settle()
        loader.blocked[THIRD].set()
        assert (await staying).name == THIRD
        assert loader.loads[THIRD] == 1

    run(main())


def test_a_version_whose_waiters_have_left_is_dropped_after_its_load(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        await live.hold("leases", [FIRST])
        loader.blocked[THIRD] = asyncio.Event()
        gone = asyncio.create_task(live.get(THIRD, None))
        await settle()
        gone.cancel()
        loader.blocked[THIRD].set()
        await settle()
        assert loader.loads[THIRD] == 1
        assert live.loaded_names == [FIRST, SECOND]

    run(main())


def test_a_running_request_keeps_its_version_while_the_current_version_changes(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        old = await live.get(None, None)
        with live.using(old):
            for name in (THIRD, FOURTH, FIFTH):
                await live.make_current(name)
                await settle()
            assert old.name == SECOND
            assert live.loaded(SECOND) is old
            assert live.current_name == FIFTH
        await settle()
        await live.load(FIRST)
        await settle()
        assert live.loaded_names == [FIRST, FIFTH]

    run(main())


def test_held_versions_load_in_the_background_and_failed_loads_are_retried_later(
    loader: ControlledLoader, store: VersionStore
) -> None:
    async def main() -> None:
        refusals = Refusals(store, lambda: None, retry_after_s=60.0)
        live = LiveVersions(lambda name: refusals.load(name, loader.load), 2, store)
        await live.make_current(SECOND)
        loader.blocked[THIRD], loader.broken = asyncio.Event(), {FOURTH}
        for _ in range(3):
            live.hold_soon("leases", {FIRST, THIRD, FOURTH})
            await loaded(live, FIRST, SECOND)
            await no_load_of(FOURTH)
        loader.blocked[THIRD].set()
        await loaded(live, FIRST, SECOND, THIRD)
        assert loader.loads == {FIRST: 1, SECOND: 1, THIRD: 1, FOURTH: 1}
        loader.broken = set()
        (store.path(FOURTH) / "mended").touch()
        live.hold_soon("leases", {FIRST, FOURTH})
        await loaded(live, FIRST, SECOND, FOURTH)
        live.hold_soon("leases", set())
        await settle()
        assert live.loaded_names == [SECOND, FOURTH]
        await live.close()

    run(main())


def test_a_failed_background_load_is_logged_once_per_source(
    loader: ControlledLoader, store: VersionStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        for source in ("labels", "leases", "labels"):
            live.hold_soon(source, {"v000009"})
            await no_load_of("v000009")
        live.hold_soon("labels", set())
        live.hold_soon("labels", {"v000009"})
        await no_load_of("v000009")

    run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" ")[0] for line in lines] == ["labels", "leases", "labels"]


def test_closing_ends_background_loads(loader: ControlledLoader, store: VersionStore) -> None:
    async def main() -> None:
        live = await live_model(loader, store)
        loader.blocked[THIRD] = asyncio.Event()
        live.hold_soon("labels", {THIRD})
        await settle()
        await live.close()
        assert {task.get_name() for task in asyncio.all_tasks()} & {f"labels-{THIRD}"} == set()

    run(main())


async def loaded(live: LiveVersions, *names: str) -> None:
    """Wait until exactly these versions are in memory."""
    async with asyncio.timeout(30):
        while live.loaded_names != list(names):  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)


async def no_load_of(name: str) -> None:
    """Wait until no background load of this version is under way."""
    async with asyncio.timeout(30):
        while any(t.get_name().endswith(f"-{name}") for t in asyncio.all_tasks()):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.001)
