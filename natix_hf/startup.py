"""Settings that make a command start, compute and exit quickly.

Memory: glibc returns every large block to the system as soon as it is freed. So each step of a network on a CPU gets
its activations as new pages, which the kernel must clear first: a fifth to a quarter of a forward pass of a ViT-S on
two cores. Keeping freed memory hardly raises the peak; it only avoids returning it to the system between steps.

Threads: torch distributes each operation over threads. A thread that waits for the others polls a word of memory; with
the defaults of GNU's OpenMP, which torch's Linux wheels contain, it does so for milliseconds before it sleeps. Next to
other busy processes, the threads use up their processor time by polling and do not run when there is work.

Workers: since Python 3.14, a worker process on Linux is no longer a copy of its parent: it imports torch and the rest
again, which takes seconds for every loader of photos.

Imports: while torch and transformers are imported, Python repeatedly searches their hundreds of thousands of objects
for garbage. This takes a second or two and finds nothing.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from natix_hf.cpu_tricks import wanted

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
GIB = 1 << 30
SPINS = 10_000  # polls before a waiting thread sleeps, about 200 microseconds; the default is 300,000
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
WORKER_MODULES = ("multiprocessing.util", "multiprocess.util")  # the second one is that of datasets
SMALLER = 32 << 20  # the maximum of M_MMAP_THRESHOLD in older releases of glibc


def prepare() -> None:
    """Run by every command before it reads its arguments, so before torch is imported."""
    wait_asleep()
    fork_workers()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_share_temporary_folder)
    _end_with_launcher()
    if not sys.stderr.isatty():
        from natix_hf.progress_lines import bars_as_lines

        bars_as_lines()


def wait_asleep() -> None:
    """Let waiting OpenMP threads sleep soon, unless the user has set this; must run before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ and wanted("sleeping"):
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def fork_workers() -> None:
    """Fork worker processes on Linux, as every Python before 3.14 did, unless a start method is chosen already."""
    if sys.platform == "linux" and sys.version_info >= (3, 14) and wanted("forking"):
        import multiprocessing

        if multiprocessing.get_start_method(allow_none=True) is None:
            multiprocessing.set_start_method("fork")


def _share_temporary_folder() -> None:
    """Before a fork: make the temporary folder of workers here, so it is removed even if a signal ends them first."""
    for util in filter(None, map(sys.modules.get, WORKER_MODULES)):
        if not util.process.current_process()._config.get("tempdir"):
            folder = util.get_temp_dir()
            # A worker copies this setting when it is constructed, which may have been before.
            util.register_after_fork(
                util, lambda util, folder=folder: util.process.current_process()._config.update(tempdir=folder)
            )


def _end_with_launcher() -> None:
    """End when `accelerate launch` ends: a signal ends it without its child, which would go on training unseen."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/cmdline", "rb") as file:
            words = file.read()
    except OSError:
        return
    if b"accelerate" in words and b"launch" in words:
        end_with(parent, signal.SIGTERM)


def end_with(parent: int, number: int) -> None:
    """Ask Linux to send a signal to this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(DEATH_OF_PARENT, number)
    if os.getppid() != parent:  # it ended before prctl was called
        os.kill(os.getpid(), number)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory, unless the user has configured its allocator (`MALLOC_...`).

    Returns:
        Whether glibc accepted the setting.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or own or not wanted("memory"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        accepted = mallopt(MMAP_THRESHOLD, GIB) or mallopt(MMAP_THRESHOLD, SMALLER)
        return bool(accepted and mallopt(TRIM_THRESHOLD, GIB))
    except (OSError, AttributeError):  # musl
        return False


@contextmanager
def quick_imports() -> Iterator[None]:
    """Switch garbage collection off inside the block, and exclude what was imported there from later collections."""
    if not gc.isenabled() or not wanted("imports"):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
