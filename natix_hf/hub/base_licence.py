"""Finds the licence of a run's base checkpoint, which also applies to the trained weights.

The licence follows from the checkpoint's name or from the model card in its folder. No licence text is read, and
nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from natix_hf.documents.hub_metadata import LICENCES
from natix_hf.files import hub_id

DINOV3 = {
    "license": "other",
    "license_name": "dinov3-license",
    "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license",
}
TEXTS = ("LICENSE.md", "LICENSE", "LICENSE.txt")


@dataclass(frozen=True)
class Licence:
    """What a card says about a licence.

    Attributes:
        front: `license` of the front matter; for `other` also `license_name` and `license_link`.
        text: sentences for the card.
        file: the licence text in the checkpoint's folder, or None.
    """

    front: dict[str, str]
    text: str
    file: Path | None = None

    @property
    def known(self) -> bool:
        return self.front["license"] != "unknown"


def base_licence(base: str | None, *, ask_hub: bool = False) -> Licence:
    """The licence of a base checkpoint.

    Args:
        base: `model_name_or_path` of the recipe, or None if it is not known.
        ask_hub: download the card of a base if its name does not determine the licence. By default only the local
            cache is read.
    """
    if base == "builtin:demo-backbone":
        return Licence(
            {"license": "apache-2.0"}, "Apache-2.0, the licence of the demonstration backbone that was fine-tuned."
        )
    base_id = hub_id(base)
    text = next((path for name in TEXTS if (path := _beside(base, name, ask_hub=False))), None)
    if base_id and re.match(r"(facebook/dinov3|timm/.*dinov3)", base_id):
        return _inherited(DINOV3, base_id, text)
    card = _beside(base, "README.md", ask_hub=ask_hub)
    front = _front(card, base_id) if card else None
    shown = base_id or "a local checkpoint"
    if front is not None:
        return _inherited(front, shown, text)
    return Licence(
        {"license": "unknown"},
        f"The weights are derived from {shown}. Its licence is not known: ask its author before you use or share the "
        f"weights. If it is based on Meta's DINOv3, the [DINOv3 License]({DINOV3['license_link']}) applies.",
    )


def _inherited(front: dict[str, str], base: str, file: Path | None) -> Licence:
    name = front.get("license_name", front["license"])
    named = f"[{name}]({front['license_link']})" if front.get("license_link") else name
    if front == DINOV3:
        named = f"[DINOv3 License]({DINOV3['license_link']})"
    text = (
        f"The weights are derived from {base}, so its licence, the {named}, applies to them. If you share the weights "
        "or anything made from them, include that licence."
    )
    return Licence(dict(front), text, file)


def _beside(base: str | None, name: str, *, ask_hub: bool) -> Path | None:
    """The path of a file of the base checkpoint; None if it is not available."""
    if base is None or base.startswith("builtin:"):
        return None
    base_id = hub_id(base)
    if base_id is None:
        path = Path(base).expanduser() / name
        return path if path.is_file() else None
    if not ask_hub:
        cached = try_to_load_from_cache(base_id, name)
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(base_id, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def _front(card: Path, base_id: str | None) -> dict[str, str] | None:
    """The licence in a card's front matter; None if it names none that the Hub accepts."""
    try:
        front = metadata_load(card)
    except (yaml.YAMLError, ValueError):
        return None
    if not front:
        return None
    licence, name, link = (front.get(key) for key in ("license", "license_name", "license_link"))
    if licence == "other":
        if base_id and link in TEXTS:
            link = f"https://huggingface.co/{base_id}/blob/main/{link}"
        # `other` says which licence it is only together with a name and an address.
        address = isinstance(link, str) and link.startswith("https://")
        return {"license": "other", "license_name": str(name), "license_link": link} if name and address else None
    return {"license": licence} if licence in LICENCES and licence != "unknown" else None
