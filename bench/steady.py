"""Clients that send at a steady rate: a process of its own, so that only the server is disturbed by a swap.

`python -m bench.steady`: a Worker (bench/processes.py) that is asked for one period after another.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import orjson

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Period:
    """`clients` post the bodies in turn to the `urls` in turn for `seconds`, one request each `interval_s`;
    0: the next as soon as the one before is answered."""

    urls: list[str]
    bodies: list[str]
    clients: int
    seconds: float
    interval_s: float


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request left (time.monotonic()), how long its answer took, and by which version it is."""

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


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    _say({"ready": True})
    for line in sys.stdin.buffer:
        _say({"sent": [asdict(sent) for sent in asyncio.run(_run(Period(**orjson.loads(line))))]})


if __name__ == "__main__":
    main()
