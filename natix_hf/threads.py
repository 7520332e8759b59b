"""Runs small matrix products on one thread.

numpy and scikit-learn distribute even a product of microseconds over all cores, where its threads mostly wait for each
other. Next to other work on the machine, the waiting takes ten to a hundred times as long as the product.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

from natix_hf.cpu_tricks import wanted

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@cache
def _libraries() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # searches the libraries of the process, which takes milliseconds


def one_blas_thread() -> AbstractContextManager:
    """Inside the block numpy and SciPy multiply matrices on one thread; torch is not affected."""
    if not wanted("threads"):
        return nullcontext()
    return _libraries().limit(limits=1, user_api="blas")
