"""What the package does to be quick on a CPU, and the switch that leaves a part of it out.

`NATIX_HF_WITHOUT="packing memory"` leaves out what it names, `NATIX_HF_WITHOUT=all` everything; docs/speed.md says
what each is worth. The work itself is in `startup.py`, `threads.py` and `modeling/packed_linear.py`.
"""

from __future__ import annotations

import os

SWITCH = "NATIX_HF_WITHOUT"
TRICKS = {
    "packing": "frozen layers laid out once for the processor (modeling/packed_linear.py)",
    "memory": "memory that was freed is kept for the next step (startup.keep_freed_memory)",
    "sleeping": "threads that wait for each other sleep soon (startup.wait_asleep)",
    "imports": "no garbage is looked for while modules are imported (startup.quick_imports)",
    "threads": "small products on one thread (threads.one_blas_thread)",
}


def wanted(trick: str) -> bool:
    """Whether one of `TRICKS` is to be used."""
    left_out = os.environ.get(SWITCH, "").split()
    return trick not in left_out and "all" not in left_out


def unknown_words() -> list[str]:
    """What `NATIX_HF_WITHOUT` names that is no trick."""
    return [word for word in os.environ.get(SWITCH, "").split() if word not in (*TRICKS, "all")]
