"""The latency of a short request while a server is under load, measured in a process of its own: in the load
generator, its other connections would delay it.
"""

from __future__ import annotations

import http.client
import select
import subprocess
import sys
import time
from typing import Self
from urllib.parse import urlsplit

import orjson

from bench.places import ROOT

INTERVAL_S = 0.05
TIMEOUT_S = 60.0


class Probe:
    """Fetches `url` every `interval_s`, from the start of the block until `between` is called."""

    def __init__(self, url: str, interval_s: float = INTERVAL_S) -> None:
        self._url = url
        self._interval_s = interval_s

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 (this module)
            [sys.executable, "-m", "bench.probe", self._url, str(self._interval_s)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None  # noqa: S101 (a pipe)
        assert self._process.stdout is not None  # noqa: S101 (a pipe)
        self._input, self._output = self._process.stdin, self._process.stdout
        self._output.readline()  # until the first answer
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._input.close()
        self._output.close()
        self._process.kill()
        self._process.wait()

    def between(self, start: float, end: float) -> list[float]:
        """Stop probing; returns the seconds of each probe sent from `start` to `end` (time.monotonic())."""
        self._input.close()
        answer = self._output.read()
        if self._process.wait() != 0:
            raise RuntimeError(f"probing {self._url} failed")
        return [took for sent, took in orjson.loads(answer) if start <= sent <= end]


def main() -> None:
    url, interval_s = urlsplit(sys.argv[1]), float(sys.argv[2])
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_S)
    probes: list[tuple[float, float]] = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        sent = time.monotonic()
        connection.request("GET", url.path)
        connection.getresponse().read()
        probes.append((sent, time.monotonic() - sent))
        if len(probes) == 1:
            print(flush=True)
        due = max(due + interval_s, time.monotonic())
    sys.stdout.buffer.write(orjson.dumps(probes))


if __name__ == "__main__":
    main()
