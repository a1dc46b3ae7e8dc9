"""`bench/edges`: what hostile request bodies cost a server, in time, in memory, and for other requests.

A private server on the benchmarks' encoder, with a key. Each body is sent once, on a new connection. `/health`
is the longest GET /health meanwhile, from another process. `memory` is the server's peak resident memory above
that of its start, less the size of the body. With four sizes it takes about six minutes.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import ours
from bench.machine import write_record
from bench.models import checkpoint, publish
from bench.places import WORK
from bench.probe import Probe
from bench.processes import Server
from metarm.runtime import idle_memory
from metarm.runtime.embedded_redis import EmbeddedRedis

MB = 2**20
PROBE_S = 0.005
KEY = "key-of-the-benchmark"
MOST_S, MOST_HEALTH_S, MOST_MEMORY = 0.5, 0.05, 100 * MB  # the aims

Make = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Shape:
    """`make` gives a body of a size in bytes; of a bomb, the size counts a fortieth of what it becomes."""

    make: Make
    encoding: str | None = None
    key: bool = True


def filled(before: bytes, unit: bytes, after: bytes = b"") -> Make:
    """Bodies of about the size asked for: `unit` repeated between the two."""
    return lambda size: before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def _numbered(before: bytes, unit: bytes, after: bytes) -> Make:
    """As `filled`; each %d of a unit is its number."""

    def make(size: int) -> bytes:
        return before + b",".join(unit % n for n in range(size // (len(unit) + 6))) + after

    return make


TEXT = b'{"groups":[{"prompt":"%s","responses":['
PLAIN: dict[str, Make] = {
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
ZEROS = PLAIN['`{"groups":[0,0,…]}`']
SHAPES = {
    **{name: Shape(make) for name, make in PLAIN.items()},
    "zeros without a key": Shape(ZEROS, key=False),
    "gzip of 40 times the size": Shape(lambda size: gzip.compress(bytes(40 * size), 1), "gzip"),
    "zeros, deflated": Shape(lambda size: zlib.compress(ZEROS(size), 1), "deflate"),
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
    write_record(options, {"sent": [asdict(one) for one in found]})


def measure(folder: Path, megabytes: list[int]) -> list[Sent]:
    """Each shape is sent to a server of its own, which keeps the memory of what it has answered."""
    publish(checkpoint("encoder"), folder)
    redis = EmbeddedRedis(folder / "redis")
    settings = {"METARM_TUNE": "false", "METARM_SCORE_KEYS": f'["{KEY}"]'}
    found = []
    with ours.redis_process(redis, folder):
        print(_head(megabytes), flush=True)
        for number, (name, shape) in enumerate(SHAPES.items()):
            with ours.server(folder, redis, f"service-{number}", **settings) as server:
                time.sleep(2 * idle_memory.CHECK_S)  # until the memory of its start is returned
                at_start = _status(server, "VmRSS")
                sent = [_send(server, at_start, name, size, shape) for size in sorted(megabytes)]
                print(row_of(name, sent), flush=True)
                found += sent
    return found


def _send(server: Server, at_start: int, name: str, megabytes: int, shape: Shape) -> Sent:
    body = shape.make(megabytes * MB)
    key = {"Authorization": f"Bearer {KEY}"} if shape.key else {}
    encoding = {"Content-Encoding": shape.encoding} if shape.encoding else {}
    headers = {"Content-Type": "application/json", **key, **encoding}
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak begins anew
    with Probe(f"{server.url}/health", PROBE_S) as probe:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120.0)
        begun = time.monotonic()
        connection.request("POST", "/score", body, headers)
        answer = connection.getresponse()
        answer.read()
        ended = time.monotonic()
        connection.close()
        waits = probe.between(begun, ended)
    memory = max(0, _status(server, "VmHWM") - at_start - len(body))
    return Sent(name, megabytes, answer.status, ended - begun, max(waits, default=0.0), memory)


def _status(server: Server, name: str) -> int:
    """A figure of /proc/PID/status in bytes."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _head(megabytes: list[int]) -> str:
    sizes = " · ".join(map(str, sorted(megabytes)))
    return (
        f"| body of {sizes} MB | status | answer, ms | longest /health, ms | memory, MB |\n"
        "| --- | --- | --- | --- | --- |"
    )


def row_of(name: str, sent: list[Sent]) -> str:
    """A shape with the figures of its sizes; ! marks those over an aim."""
    cells = (
        ", ".join(dict.fromkeys(str(one.status) for one in sent)),
        " · ".join(_marked(1000 * one.answer_s, 1000 * MOST_S) for one in sent),
        " · ".join(_marked(1000 * one.health_s, 1000 * MOST_HEALTH_S) for one in sent),
        " · ".join(_marked(one.memory / MB, MOST_MEMORY / MB) for one in sent),
    )
    return f"| {name} | {' | '.join(cells)} |"


def _marked(figure: float, most: float) -> str:
    return f"{figure:.0f}{'!' if figure > most else ''}"


if __name__ == "__main__":
    main()
