"""What a pretrained backbone has seen, as its `config.json` carries it on, and the refusal that follows from it.

The photos are known by the first 64 bits of their fingerprints. So a later split whose val_* photos were learned from
is refused wherever the backbone went meanwhile; a copy that was saved again is not recognised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from natix_hf.data.splits.certificate import PRINT, known_photos, photo_prints
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import LeakageError
from natix_hf.files import hub_id

KEY = "lineage"  # in config.json


def lineage(
    parts: Iterable[Dataset], *, base: str, certificate: SplitCertificate, earlier: Any = None
) -> dict[str, Any]:
    """What goes into the `config.json` of a backbone that was pretrained.

    Args:
        parts: the rows that were read.
        base: the checkpoint that it started from; told where it is one of the Hub.
        certificate: of the split whose val_* rows were left out.
        earlier: what stands in the `config.json` of the base.
    """
    prints = {one for part in parts for one in _cut(photo_prints(part))} | set(
        _cut((earlier or {}).get("photo_prints", ""))
    )
    return {
        "purpose": "pretrain",
        "base": hub_id(base),  # a path of this machine concerns nobody else
        "splits": certificate.fingerprint,
        "photos": len(prints),
        "photo_prints": "".join(sorted(prints)),
    }


def check_lineage(config: Any, certificate: SplitCertificate, name: str) -> None:
    """Refuse a backbone that has seen photos of val_*.

    Args:
        config: of the backbone.
        certificate: of the split.
        name: what the user calls the checkpoint.

    Raises:
        LeakageError: it has.
    """
    told = getattr(config, KEY, None)
    if not told:
        return
    homes = known_photos(certificate)
    seen = Counter(homes[one] for one in _cut(told["photo_prints"]) if homes.get(one, "train") != "train")
    if seen:
        counts = ", ".join(f"{count} of {split}" for split, count in sorted(seen.items()))
        raise LeakageError(
            f"{name} was pretrained on photos that this split tests with ({counts}): no figure on them would hold: "
            "train on the split that it was pretrained with (same photos, split_seed and split_ratios), or pretrain "
            "again with this one"
        )


def _cut(prints: str) -> list[str]:
    return [prints[start : start + PRINT] for start in range(0, len(prints), PRINT)]
