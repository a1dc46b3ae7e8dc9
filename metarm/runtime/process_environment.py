"""Environment variables that must be in force before torch loads, whatever way a process starts.

OMP_WAIT_POLICY=active with GOMP_SPINCOUNT=1000: OpenMP threads that wait for the next operation spin for
some ten microseconds, then sleep (docs/decisions/0003-process-environment.md). The default, milliseconds,
makes scoring 4 to 8 times slower beside any other busy process; none at all, a short text on two cores
a sixth slower and more. `active` is there because libgomp otherwise spins not at all, whatever the count,
once its threads outnumber the cores.
MALLOC_*: glibc keeps large freed blocks instead of returning them page by page (5 to 15% of a forward).
glibc and libgomp read these once, at process start: hence the re-exec.

And how a process imports torch: with the garbage collector off.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

from metarm.errors import ConfigurationError

REQUIRED = {
    "OMP_WAIT_POLICY": "active",
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}


def ensure() -> None:
    """Start this very command again with the variables set, unless they already are."""
    if all(os.environ.get(name) == value for name, value in REQUIRED.items()):
        return
    os.environ.update(REQUIRED)
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (our own command line)


def check() -> None:
    """Raise ConfigurationError where the variables are not in force: started by another route."""
    wrong = [f"{name}={value}" for name, value in REQUIRED.items() if os.environ.get(name) != value]
    if wrong:
        raise ConfigurationError(
            "scoring would be several times slower: start with `metarm serve`, or set "
            + " ".join(wrong)
            + " before the process starts"
        )


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import torch and transformers inside this. They make 650,000 objects that live as long as the
    process: walking them again and again is a quarter of the import, and later stops every thread for
    0.2 s in a full collection. So nothing is collected meanwhile, and they are left out for ever."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
