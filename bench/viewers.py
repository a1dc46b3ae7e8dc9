"""Viewers of the page and a scraper of /metrics: a process that sends their requests at their intervals.

`python -m bench.viewers`: a worker process (bench/worker.py). Each line is the next Audience; the answer counts
the requests of the one before. The intervals are the page's own. There is no browser: on this machine it would
use the cores that are measured.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import orjson

from bench import worker
from bench.places import ROOT

PAGE = ROOT / "service" / "http" / "page"


@dataclass(frozen=True, slots=True)
class Audience:
    """`viewers` have the page open at its view of drift; /metrics is scraped every `scrape_s` (0: never)."""

    url: str
    viewers: int
    scrape_s: float


class Polling:
    """The requests of an audience, from `start` to `stop`."""

    def __init__(self, audience: Audience, http: aiohttp.ClientSession) -> None:
        self._audience = audience
        self._http = http
        self._asked: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if self._audience.scrape_s:
            self._again(self._scrape, self._audience.scrape_s)
        for _ in range(self._audience.viewers):
            self._tasks.append(asyncio.create_task(self._open()))

    async def stop(self) -> dict[str, int]:
        """The number of requests by path. Raises what a request raised."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        return dict(self._asked)

    async def _open(self) -> None:
        """Request the page and its files, then poll as the page does."""
        for path in ["", *(f"page/{file.name}" for file in sorted(PAGE.iterdir())), "page/plotly.min.js"]:
            await self._get(path)
        since = itertools.count()  # the first answer has the whole history, as in the page
        self._again(lambda: self._overview(next(since) == 0), interval_s("OVERVIEW_MS"))
        self._again(self._drift, interval_s("DRIFT_MS"))
        self._again(self._versions, interval_s("VERSIONS_MS"))

    def _again(self, ask: Callable[[], Awaitable[None]], every_s: float) -> None:
        async def run() -> None:
            while True:
                await ask()
                await asyncio.sleep(every_s)

        self._tasks.append(asyncio.create_task(run()))

    async def _overview(self, first: bool) -> None:
        await self._get("overview?since=0" if first else "overview?since=9999999999")

    async def _drift(self) -> None:
        report = orjson.loads(await self._get("drift"))
        await self._get(f"drift/{report['serving']}?against=v000001")

    async def _versions(self) -> None:
        for path in ("versions", "labels", "retrain?count=1"):
            await self._get(path)

    async def _scrape(self) -> None:
        await self._get("metrics")

    async def _get(self, path: str) -> bytes:
        async with self._http.get(f"{self._audience.url}/{path}") as answer:
            content = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}: {content[:300]!r}")
        self._asked[path.split("?")[0]] += 1
        return content


def interval_s(name: str) -> float:
    """The page's interval of that name."""
    found = re.search(rf"^const {name} = (\d+);", (PAGE / "main.js").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the page has no interval {name}")
    return int(found[1]) / 1000


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": "gzip"}) as http:
        polling: Polling | None = None
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            asked = await polling.stop() if polling else {}
            polling = Polling(Audience(**orjson.loads(line)), http)
            polling.start()
            worker.say({"asked": asked})


def main() -> None:
    worker.say({"ready": True})
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
