"""`bench/leaving`: the share of the tokens that a service computes for clients that leave before their answer.

Each client sends a request of its own texts and leaves after a random time, on average the time that a request
waits, unless it has its answer by then. Half of those that left send the request again, with the same
request_id, and wait. Tokens computed ÷ tokens of the answers that clients received tells what was computed for
nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import orjson

from bench import ours
from bench.machine import write_record
from bench.models import checkpoint, publish
from bench.places import WORK
from bench.workload import Load, encoder_pairs
from metarm.runtime.embedded_redis import EmbeddedRedis

AIM = 0.02  # tokens computed for nobody ÷ tokens computed
WARM_UP = 64  # requests, whose answers also tell how long a request waits
HEADERS = {"content-type": "application/json"}


@dataclass(slots=True)
class Found:
    """Clients by what became of them, and tokens."""

    answered: int = 0  # before they would have left
    left: int = 0
    retried: int = 0  # of those that left
    delivered_tokens: int = 0
    computed_tokens: int = 0
    waits_s: list[float] = field(default_factory=list)  # of the warm-up
    wall_s: float = 0.0

    @property
    def for_nobody(self) -> float:
        return (self.computed_tokens - self.delivered_tokens) / self.computed_tokens


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, however this ends
    parser = argparse.ArgumentParser(
        prog="bench/leaving", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000, help="clients in all")
    parser.add_argument("--at-once", type=int, default=32, help="clients that wait at a time")
    parser.add_argument("--texts", type=int, default=4, help="texts of a request")
    parser.add_argument("--seed", type=int, default=0, help="of the times after which clients leave")
    parser.add_argument("--out", type=Path, help="file to write the figures to, as JSON")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        folder = Path(name)
        publish(checkpoint("encoder"), folder)
        redis = EmbeddedRedis(folder / "redis")
        cached = {"METARM_SCORE_CACHE_ENTRIES": "65536"}  # the default
        with ours.redis_process(redis, folder), ours.server(folder, redis, **cached) as server:
            bodies = _bodies(WARM_UP + options.clients, options.texts)
            found = asyncio.run(_measure(server.url, bodies, options.at_once, random.Random(options.seed)))
    print(report(found))
    write_record(options, asdict(found))


def report(found: Found) -> str:
    return (
        f"{found.answered} clients got their answer, {found.left} left, {found.retried} of them came back; "
        f"{found.wall_s:.0f} s\n"
        f"tokens computed {found.computed_tokens}, delivered {found.delivered_tokens}: "
        f"{found.for_nobody:.2%} for nobody (aim: under {AIM:.0%})"
    )


def _bodies(count: int, texts: int) -> list[bytes]:
    requests = encoder_pairs().requests(Load("leaving", "encoder", 1, texts, count), "leaving")
    return [
        orjson.dumps(ours.body(request, request_id=f"leaving-{number}"))
        for number, request in enumerate(requests)
    ]


async def _measure(url: str, bodies: Sequence[bytes], at_once: int, rng: random.Random) -> Found:
    found, room = Found(), asyncio.Semaphore(at_once)
    unlimited = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=unlimited, headers=HEADERS) as http:

        async def warm_up(body: bytes) -> None:
            async with room:
                sent = time.monotonic()
                await _score(http, body)
                found.waits_s.append(time.monotonic() - sent)

        async def client(body: bytes, patience_s: float, *, returns: bool) -> None:
            async with room:
                try:
                    async with asyncio.timeout(patience_s):
                        tokens = await _score(http, body)
                    found.answered += 1
                except TimeoutError:  # its connection is closed
                    found.left += 1
                    if not returns:
                        return
                    tokens = await _score(http, body)
                    found.retried += 1
                found.delivered_tokens += tokens

        await asyncio.gather(*map(warm_up, bodies[:WARM_UP]))
        mean_s = sum(found.waits_s) / len(found.waits_s)
        before, started = await _computed(http), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for body in bodies[WARM_UP:]:
                patience_s, returns = rng.uniform(0, 2 * mean_s), rng.random() < 0.5
                group.create_task(client(body, patience_s, returns=returns))
        found.wall_s = time.monotonic() - started
        await asyncio.sleep(2 * mean_s)  # for slices that still run
        found.computed_tokens = await _computed(http) - before
    return found


async def _score(http: aiohttp.ClientSession, body: bytes) -> int:
    """The tokens of the answer."""
    async with http.post("/score", data=body) as answer:
        content = await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:500]!r}")
    return sum(sum(group["tokens"]) for group in orjson.loads(content)["groups"])


async def _computed(http: aiohttp.ClientSession) -> int:
    """Tokens that the service has computed since its start."""
    async with http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return round(sum(float(line.split()[1]) for line in lines if line.startswith("rm_batch_tokens_sum ")))


if __name__ == "__main__":
    main()
