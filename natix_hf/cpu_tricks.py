"""The list of CPU optimisations, and the switch that turns them off.

`NATIX_HF_WITHOUT="packing memory"` turns two of them off, `NATIX_HF_WITHOUT=all` all of them. docs/speed.md says what
each one saves. They are implemented in `startup.py`, `threads.py` and `modeling/packed_linear.py`.
"""

from __future__ import annotations

import os

SWITCH = "NATIX_HF_WITHOUT"
TRICKS = {
    "packing": "frozen weights are laid out once for the processor (modeling/packed_linear.py)",
    "memory": "freed memory is kept for the next step (startup.keep_freed_memory)",
    "sleeping": "waiting threads sleep soon (startup.wait_asleep)",
    "imports": "no garbage collection during imports (startup.quick_imports)",
    "forking": "worker processes are forked, also on Python 3.14 (startup.fork_workers)",
    "threads": "small matrix products use one thread (threads.one_blas_thread)",
}


def wanted(trick: str) -> bool:
    """Whether one of `TRICKS` is on."""
    left_out = os.environ.get(SWITCH, "").split()
    return trick not in left_out and "all" not in left_out


def unknown_words() -> list[str]:
    """Unknown words in `NATIX_HF_WITHOUT`."""
    return [word for word in os.environ.get(SWITCH, "").split() if word not in (*TRICKS, "all")]
