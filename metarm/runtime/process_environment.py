"""Environment variables that must be set before torch loads, however a process starts.

OMP_WAIT_POLICY=active, GOMP_SPINCOUNT=1000: OpenMP threads that wait for the next operation spin for about ten
microseconds, then sleep (docs/decisions/0003-process-environment.md). The default spins for milliseconds and
makes scoring 4 to 8 times slower next to any other busy process; without spinning, a short text on two cores
takes at least a sixth longer. Without `active`, libgomp ignores the count and does not spin once its threads
outnumber the cores.

MALLOC_*: glibc keeps large freed blocks instead of returning them page by page (5 to 15% of a forward).

glibc and libgomp read these variables once, at process start; therefore the process executes itself again.

The module also turns the garbage collector off while a process imports torch.
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


def ensure_set() -> None:
    """Set the variables: unless they are set, this process executes its command line again with them."""
    if all(os.environ.get(name) == value for name, value in REQUIRED.items()):
        return
    os.environ.update(REQUIRED)
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (our own command line)


def check() -> None:
    """Raises ConfigurationError if the process was started in another way, without the variables."""
    wrong = [f"{name}={value}" for name, value in REQUIRED.items() if os.environ.get(name) != value]
    if wrong:
        raise ConfigurationError(
            "scoring would be several times slower: start with `metarm serve`, or set "
            + " ".join(wrong)
            + " before the process starts"
        )


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Turn the garbage collector off while torch and transformers are imported, and exempt their objects from
    later collections. These 650,000 objects live as long as the process. Traversing them takes a quarter of the
    import's time, and a full collection would later stop all threads for 0.2 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
