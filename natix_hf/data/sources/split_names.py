"""Recognises names of splits, such as `train`, `Testing`, `test_images` or `val2017`.

Case, separators, digits and words such as `images` or `set` are ignored.
"""

from __future__ import annotations

import re

from natix_hf.data.splits.contracts import SPLITS

WORDS = ("train", "training", "val", "valid", "validation", "dev", "eval", "evaluation", "trainval", "test", "testing")
TEST_WORDS = ("test", "testing")  # names of the split that published figures refer to
_BESIDE = r"(?:images?|imgs?|photos?|pictures?|pics?|data|dataset|sets?|split|folder|jpe?g|png)"
_GLUED = re.compile(f"{_BESIDE}?({'|'.join(sorted(WORDS, key=len, reverse=True))}){_BESIDE}?")


def _pieces(name: str) -> list[str]:
    """`TrainImages_2017` -> `train`, `images`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    return [piece for piece in re.split(r"[\W\d_]+", parted) if piece]


def split_word(name: str) -> str | None:
    """The word for a split in a name, in lower case. None if there is none or more than one."""
    pieces = _pieces(name)
    if "_".join(pieces) in SPLITS:
        return "_".join(pieces)
    words = {match[1] for piece in pieces if (match := _GLUED.fullmatch(piece))}
    if words == {"train", "val"}:
        return "trainval"
    return words.pop() if len(words) == 1 else None


def names_split(name: str) -> str | None:
    """`split_word` if the name says nothing else: for `train_images`, but not for `train_station`."""
    pieces = _pieces(name)
    alone = all(_GLUED.fullmatch(piece) or re.fullmatch(_BESIDE, piece) for piece in pieces)
    return split_word(name) if alone or "_".join(pieces) in SPLITS else None
