"""Records in `config.json` which photos a backbone was pretrained on, and refuses it if val_* contains one of them.

Photos are identified by the first 64 bits of their fingerprints. The record stays with the backbone wherever it is
copied. A photo that was saved again in another file is not recognised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from natix_hf.data.splits.certificate import known_photos, listed_prints, photo_prints
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import LeakageError
from natix_hf.files import hub_id

KEY = "lineage"  # in config.json


def lineage(
    parts: Iterable[Dataset], *, base: str, certificate: SplitCertificate, earlier: Any = None
) -> dict[str, Any]:
    """The record for the `config.json` of a pretrained backbone.

    Args:
        parts: the rows that pretraining read.
        base: the checkpoint that it started from; recorded only if it is on the Hub.
        certificate: certificate of the split whose val_* rows were left out.
        earlier: the record in the `config.json` of the base.
    """
    prints = {print_ for part in parts for print_ in listed_prints(photo_prints(part))}
    if earlier:
        prints |= set(listed_prints(earlier["photo_prints"]))
    return {
        "purpose": "pretrain",
        "base": hub_id(base),  # never a path of this machine
        "splits": certificate.fingerprint,
        "photos": len(prints),
        "photo_prints": "".join(sorted(prints)),
    }


def check_lineage(config: Any, certificate: SplitCertificate, name: str) -> None:
    """Refuse a backbone that has seen photos of val_*.

    Args:
        config: config of the backbone.
        certificate: certificate of the split.
        name: the user's name for the checkpoint.

    Raises:
        LeakageError: if it has seen such photos.
    """
    recorded = getattr(config, KEY, None)
    if not recorded:
        return
    homes = known_photos(certificate)
    prints = listed_prints(recorded["photo_prints"])
    trained_on = Counter(homes[print_] for print_ in prints if homes.get(print_, "train") != "train")
    if trained_on:
        counts = ", ".join(f"{count} of {split}" for split, count in sorted(trained_on.items()))
        raise LeakageError(
            f"{name} was pretrained on photos that this split tests with ({counts}), so figures on them would be too "
            "good: train on the split that it was pretrained with (same photos, split_seed and split_ratios), or "
            "pretrain again with this split"
        )
