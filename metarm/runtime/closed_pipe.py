"""The reader of stdout leaves, as `head` does: a command ends quietly, as Unix tools do."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

STATUS = 128 + signal.SIGPIPE


@contextlib.contextmanager
def ends_quietly() -> Iterator[None]:
    """Run a command, or one that ends by SystemExit. If the reader of stdout has left, it ends with STATUS and
    without a message; a BrokenPipeError of anything else is raised."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it was closed before the command began
                sys.stdout.flush()
    except BrokenPipeError:
        if not reader_left():
            raise
        discard_output()
        sys.exit(STATUS)


def reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors alone
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output() -> None:
    """From here on all that is written to stdout is lost, also what Python has not flushed yet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
