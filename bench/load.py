"""The load generator: a process of its own, with the same HTTP client and persistent connections for every arm.

`python -m bench.load` reads a Job as JSON from stdin and writes an Outcome as JSON to stdout. Bodies are
encoded before the clock starts, and answers are parsed after it stops.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import aiohttp
import orjson

from bench.places import ROOT

TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Job:
    """`connections` clients post `bodies` to `url`; each sends its next request when its last is answered."""

    url: str
    connections: int
    bodies: list[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The start (time.monotonic()), the seconds from the first request to the last answer, the seconds of each
    request and the bodies of the answers, both in the order of the requests, and the client's CPU seconds."""

    started: float
    wall_s: float
    latencies_s: list[float]
    answers: list[str]
    client_cpu_s: float


def run(job: Job) -> Outcome:
    """Run the job in a process of its own. Raises RuntimeError where a request fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=orjson.dumps(job),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{job.url}: {done.stderr.decode().strip().splitlines()[-1]}")
    return Outcome(**orjson.loads(done.stdout))


async def _run(job: Job) -> Outcome:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=job.connections)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as clients:
        latencies = [0.0] * len(job.bodies)
        answers = [""] * len(job.bodies)
        remaining = iter(enumerate(job.bodies))

        async def client() -> None:
            for place, body in remaining:  # shared: each client takes the next request
                sent = time.perf_counter()
                async with clients.post(job.url, data=body.encode()) as answer:
                    text = await answer.text()
                    if answer.status != 200:
                        raise RuntimeError(f"{answer.status}: {text[:500]}")
                latencies[place] = time.perf_counter() - sent
                answers[place] = text

        cpu, started = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(job.connections):
                group.create_task(client())
        wall_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
    return Outcome(started, wall_s, latencies, answers, cpu_s)


def main() -> None:
    try:
        outcome = asyncio.run(_run(Job(**orjson.loads(sys.stdin.buffer.read()))))
    except BaseExceptionGroup as errors:
        sys.exit(f"{len(errors.exceptions)} clients failed, one with: {errors.exceptions[0]!r}")
    sys.stdout.buffer.write(orjson.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
