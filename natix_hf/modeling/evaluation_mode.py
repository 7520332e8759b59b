"""Runs a network in evaluation mode for a moment, such as for features in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block; its own mode returns afterwards, also after an error."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
