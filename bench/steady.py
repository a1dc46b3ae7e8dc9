"""Clients that send at a steady rate, in a process of their own, so that a swap disturbs the server alone.

`python -m bench.steady`: a worker process (bench/worker.py) that reads Periods.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import orjson

from bench import worker

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Period:
    """For `seconds`, each of `clients` posts one body every `interval_s`, or when its last request is answered
    where `interval_s` is 0 or shorter; bodies and `urls` are used in turn."""

    urls: list[str]
    bodies: list[str]
    clients: int
    seconds: float
    interval_s: float


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request was sent (time.monotonic()), the seconds until its answer, and the version it names."""

    at: float
    took_s: float
    version: str


async def _run(period: Period) -> list[Sent]:
    bodies = itertools.cycle(body.encode() for body in period.bodies)
    found: list[Sent] = []
    begun = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"content-type": "application/json"}

    async def client(number: int) -> None:
        urls = itertools.cycle(
            period.urls[number % len(period.urls) :] + period.urls[: number % len(period.urls)]
        )
        due = begun + period.interval_s * number / period.clients
        while (now := time.monotonic()) < begun + period.seconds:
            if now < due:
                await asyncio.sleep(due - now)
            sent = time.monotonic()
            async with session.post(f"{next(urls)}/score", data=next(bodies)) as answer:
                content = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {content[:500]!r}")
            found.append(Sent(sent, time.monotonic() - sent, orjson.loads(content)["version"]))
            due = max(due + period.interval_s, sent)

    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session, asyncio.TaskGroup() as group:
        for number in range(period.clients):
            group.create_task(client(number))
    return found


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return {"sent": [asdict(sent) for sent in asyncio.run(_run(Period(**question)))]}


if __name__ == "__main__":
    worker.serve(_answer)
