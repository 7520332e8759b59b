"""What a command does before its work so that it starts, computes and ends quickly.

glibc returns every large block of memory to the system as soon as it is freed, so each step of a network on a CPU gets
its activations as fresh pages, which the kernel clears first: a fifth to a quarter of a forward pass of a ViT-S on two
cores. Keeping it hardly raises the peak; it only avoids returning it to the system between steps.

torch shares each operation out over threads. One that waits for the others looks at the same word of memory again and
again: by the defaults of GNU's OpenMP, which torch's wheels for Linux bring, for milliseconds before it sleeps. Beside
other busy processes the threads spend their share of the processor on that, and do not run when there is work.

While torch and transformers are imported, Python looks for garbage again and again among the hundreds of thousands of
objects that they make: a second or two in which it finds nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from natix_hf.cpu_tricks import wanted

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
GIB = 1 << 30
SPINS = 10_000  # looks before a waiting thread sleeps, some 200 microseconds; by default 300,000
SMALLER = 32 << 20  # the most that older releases of glibc take for M_MMAP_THRESHOLD


def prepare() -> None:
    """What every command does before it reads its arguments, and so before torch is imported."""
    wait_asleep()
    if not sys.stderr.isatty():
        from natix_hf.progress_lines import bars_as_lines

        bars_as_lines()


def wait_asleep() -> None:
    """Let OpenMP's threads sleep soon where they wait, unless the user has said how; before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ and wanted("sleeping"):
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, unless the user has set its allocator (`MALLOC_...`) or put another in place.

    Returns:
        whether it was told.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or own or not wanted("memory"):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(MMAP_THRESHOLD, GIB) or mallopt(MMAP_THRESHOLD, SMALLER)) and bool(
            mallopt(TRIM_THRESHOLD, GIB)
        )
    except (OSError, AttributeError):  # musl
        return False


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside the block no garbage is looked for; what was imported there is not looked through later either."""
    if not gc.isenabled() or not wanted("imports"):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
