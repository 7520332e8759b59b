"""Small products on one thread.

numpy and scikit-learn share even a product of microseconds out over all cores, where its threads mostly wait for each
other; beside other work on the machine the waiting takes ten to a hundred times the product.
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

    return ThreadpoolController()  # looks through the libraries of the process, which takes milliseconds


def one_blas_thread() -> AbstractContextManager:
    """Inside the block numpy, SciPy and what is built on them multiply matrices with one thread; torch has its own."""
    if not wanted("threads"):
        return nullcontext()
    return _libraries().limit(limits=1, user_api="blas")
