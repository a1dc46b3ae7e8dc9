"""`bench/edges`: what hostile request bodies cost a server, in time, in memory, and for other requests.

A private server on the benchmarks' encoder, with a key. Each body is sent once, on a new connection. `/health`
is the longest GET /health meanwhile, from another process. `memory` is the growth of the server's peak resident
memory, less the size of the body.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from bench import ours
from bench.machine import write_record
from bench.models import checkpoint, publish
from bench.places import WORK
from bench.probe import Probe
from bench.processes import Server
from metarm.runtime.embedded_redis import EmbeddedRedis

MB = 2**20
PROBE_S = 0.005
KEY = "key-of-the-benchmark"
MOST_S, MOST_HEALTH_S, MOST_MEMORY = 0.5, 0.05, 100 * MB  # the aims

Make = Callable[[int], bytes]


def filled(before: bytes, unit: bytes, after: bytes = b"") -> Make:
    """Bodies of about the size asked for: `unit` repeated between the two."""
    return lambda size: before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def _numbered(before: bytes, unit: bytes, after: bytes) -> Make:
    """As `filled`; each %d of a unit is its number."""

    def make(size: int) -> bytes:
        return before + b",".join(unit % n for n in range(size // (len(unit) + 6))) + after

    return make


TEXT = b'{"groups":[{"prompt":"%s","responses":['
SHAPES: dict[str, Make] = {
    '`{"groups":[0,0,…]}`': filled(b'{"groups":[', b"0,", b"0]}"),
    "`[[[[…`": filled(b"", b"["),
    '`{"a":{"a":…`': filled(b"", b'{"a":'),
    "unknown fields": _numbered(b"{", b'"k%d":0', b"}"),
    "one field's name": filled(b'{"', b"k", b'":0}'),
    "one prompt": filled(b'{"groups":[{"prompt":"', b"a", b'","responses":["b"]}]}'),
    "one prompt of escapes": filled(b'{"groups":[{"prompt":"', b"\\n", b'","responses":["b"]}]}'),
    "one prompt of escaped quotes": filled(b'{"groups":[{"prompt":"', b'\\"', b'","responses":["b"]}]}'),
    "a string without an end": filled(b'{"groups":[{"prompt":"', b"a"),
    "empty responses": filled(TEXT % b"", b'"",', b'""]}]}'),
    "empty groups": filled(b'{"groups":[', b'{"prompt":"","responses":[""]},', b"0]}"),
    "empty objects": filled(b'{"groups":[', b"{},", b"{}]}"),
    "responses of 8 kB, the last a number": filled(TEXT % b"", b'"' + b"a" * 8190 + b'",', b"0]}]}"),
    "responses of 8 kB, one emoji each": filled(
        TEXT % b"", b'"' + "😀".encode() + b"a" * 8186 + b'",', b"0]}]}"
    ),
    "responses of 8 kB of escapes": filled(TEXT % b"", b'"' + b"\\u4f60" * 1365 + b'",', b"0]}]}"),
    "one response of 8 kB and an open end": filled(TEXT % b"", b'"' + b"\\u4f60" * 1365 + b'",'),
    "a number of as many digits": filled(b'{"groups":', b"9", b"}"),
    "integers of 400 digits": filled(b'{"groups":[', b"9" * 400 + b",", b"0]}"),
    "spaces": filled(b"", b" "),
    "bytes that are not UTF-8": filled(b'{"groups":["', b"a", b'\xff"]}'),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A body and what it cost. Times in seconds, memory in bytes."""

    shape: str
    megabytes: int
    status: int
    answer_s: float
    health_s: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/edges", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 4, 8, 32], help="sizes of the bodies")
    parser.add_argument("--out", type=Path, help="file to write every figure to, as JSON")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        found = measure(Path(folder), options.megabytes)
    print(table(found))
    write_record(options, {"sent": [asdict(one) for one in found]})


def measure(folder: Path, megabytes: list[int]) -> list[Sent]:
    publish(checkpoint("encoder"), folder)
    redis = EmbeddedRedis(folder / "redis")
    settings = {"METARM_TUNE": "false", "METARM_SCORE_KEYS": f'["{KEY}"]'}
    server = ours.server(folder, redis, **settings)
    key = {"Authorization": f"Bearer {KEY}"}
    found = []
    with ours.redis_process(redis, folder), server:
        for size in tqdm(megabytes, "sizes", disable=None, leave=False):
            for shape, make in SHAPES.items():
                found.append(_send(server, shape, size, make(size * MB), key))
            numbers = SHAPES['`{"groups":[0,0,…]}`'](size * MB)
            found.append(_send(server, "zeros without a key", size, numbers, {}))
            bomb, raw = gzip.compress(bytes(40 * size * MB), 1), zlib.compressobj(wbits=-15)
            found.append(
                _send(server, f"gzip of {40 * size} MB", size, bomb, {**key, "Content-Encoding": "gzip"})
            )
            packed = raw.compress(numbers) + raw.flush()
            found.append(_send(server, "zeros, deflated", size, packed, {**key, "Content-Encoding": "deflate"}))
    return found


def _send(server: Server, shape: str, megabytes: int, body: bytes, headers: Mapping[str, str]) -> Sent:
    files = Path(f"/proc/{server.pid}")
    (files / "clear_refs").write_text("5")  # the peak begins anew
    before = _status(files, "VmRSS")
    with Probe(f"{server.url}/health", PROBE_S) as probe:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120.0)
        begun = time.monotonic()
        connection.request("POST", "/score", body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        ended = time.monotonic()
        connection.close()
        time.sleep(PROBE_S)
        waits = probe.between(begun, ended)
    memory = max(0, _status(files, "VmHWM") - before - len(body))
    return Sent(shape, megabytes, answer.status, ended - begun, max(waits, default=0.0), memory)


def _status(files: Path, name: str) -> int:
    """A figure of /proc/PID/status in bytes."""
    lines = (files / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def table(found: list[Sent]) -> str:
    """One row for each shape: the largest figures over the sizes, and the statuses."""
    rows = [
        "| body | MB | status | answer, ms | longest /health, ms | memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        over = one.answer_s > MOST_S or one.health_s > MOST_HEALTH_S or one.memory > MOST_MEMORY
        figures = f"{1000 * one.answer_s:.0f} | {1000 * one.health_s:.0f} | {one.memory / MB:.0f}"
        rows.append(f"| {one.shape} | {one.megabytes} | {one.status} | {figures} |{' over' if over else ''}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
