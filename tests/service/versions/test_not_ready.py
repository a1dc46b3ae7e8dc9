"""The state of a version while it is being loaded: the load waits for the test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
import redis

from metarm.errors import InvalidVersionError, NotReadyError
from metarm.model.reward_model import RewardModel
from metarm.shared.presence import TrainerPresence
from metarm.store.versions import VersionStore
from service.versions.live import LiveVersions, LoadedVersion
from service.versions.not_ready import not_ready
from service.versions.refusals import Refusals
from service.versions.swapper import Swapper
from tests.store import weightless_store


class Part:
    """The versions of a server whose loads wait until they are let go."""

    def __init__(self, store: VersionStore, client: redis.Redis) -> None:
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.broken = True
        self.refusals = Refusals(store, lambda: None, retry_after_s=0.0)
        self.live = LiveVersions(
            lambda name: self.refusals.load(name, self._load), 2, store, why_none=self._why_none
        )
        self.swapper = Swapper(store, self.live, self.refusals, lambda _: None)
        self._presence = TrainerPresence(client)

    async def _load(self, name: str) -> LoadedVersion:
        self.started.set()
        await self.go.wait()
        if self.broken:
            raise InvalidVersionError(f"{name}: its weights are NaN")
        return LoadedVersion(name, cast("RewardModel", None))

    def _why_none(self) -> NotReadyError:
        return not_ready(self.live, self.swapper, self.refusals, self._presence)

    def error(self) -> NotReadyError:
        with pytest.raises(NotReadyError) as raised:
            self.live.current()
        return raised.value


def test_a_version_is_being_loaded_until_it_is_refused_or_serves(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    async def main() -> None:
        part = Part(weightless_store(tmp_path, 1), redis_client)
        for broken in (True, False):  # the second time after a refusal
            part.broken = broken
            part.go.clear()
            part.started.clear()
            turn = asyncio.create_task(part.swapper.follow())
            await part.started.wait()
            error = part.error()
            assert error.details == {"state": "being_loaded", "version": "v000001"}
            assert "v000001 is being loaded" in error.message
            part.go.set()
            await turn
            if broken:
                assert part.error().details["state"] == "refused"
                assert "its weights are NaN" in part.error().message
        assert part.live.current().name == "v000001"

    asyncio.run(main())
