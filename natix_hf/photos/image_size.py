"""Parses `image_size`: one number for a square, or height and width."""

from __future__ import annotations

from collections.abc import Sequence

from natix_hf.errors import UserError


def image_size_of(numbers: Sequence[int]) -> int | list[int]:
    """The size in pixels as a recipe stores it: one number for a square, else height and width.

    Raises:
        UserError: if there are more than two numbers, or if one is not positive.
    """
    if len(numbers) > 2 or min(numbers) < 1:
        given = " ".join(map(str, numbers))
        raise UserError(f"image_size: expected one number (a square) or height and width, found {given}")
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)
