"""Viewers of the page and a scraper of /metrics: a process of its own that asks for what they do, when they do.

`python -m bench.viewers`: a Worker (bench/processes.py), told who is to look from now on. The intervals are the
page's own. No browser: one on this machine would take the cores that are measured.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bench.places import ROOT

PAGE = ROOT / "service" / "http" / "page"


@dataclass(frozen=True, slots=True)
class Audience:
    """`viewers` have the page open, its Drift on the screen; /metrics is read every `scrape_s`, 0: never."""

    url: str
    viewers: int
    scrape_s: float


class Looking:
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
        """How often each path was asked for. Raises what a request raised."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        return dict(self._asked)

    async def _open(self) -> None:
        """What a browser does: the page and its files first, then its polls."""
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
    """One of the page's intervals."""
    found = re.search(rf"^const {name} = (\d+);", (PAGE / "main.js").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the page has no interval {name}")
    return int(found[1]) / 1000


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": "gzip"}) as http:
        looking: Looking | None = None
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            asked = await looking.stop() if looking else {}
            looking = Looking(Audience(**orjson.loads(line)), http)
            looking.start()
            _say({"asked": asked})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    _say({"ready": True})
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
