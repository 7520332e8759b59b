"""The card of a pretrained backbone: what it saw, what it did not see, how it was chosen, and its licence."""

from __future__ import annotations

from typing import Any

import yaml

from natix_hf.documents.pretraining import MilestoneChoice
from natix_hf.documents.unlabelled_pool import UnlabelledPool
from natix_hf.files import hub_id
from natix_hf.hub.base_licence import base_licence
from natix_hf.runs.choose_milestone import SHARES
from natix_hf.runs.markdown_table import markdown_table

LINEAGE = (
    "The `lineage` in `config.json` holds the first 64 bits of the fingerprint of every photo that was seen; "
    "`natix_hf` refuses to test on them."
)

UNTOUCHED = "These weights are those of the original, which saw none of these photos here."


def pretrained_card(
    base: str, choice: MilestoneChoice, pool: UnlabelledPool | None, train: int, facts: dict[str, Any]
) -> str:
    """`README.md` of a pretrained backbone; names no path of this machine and no photo.

    Args:
        base: the checkpoint that it started from.
        choice: how the result was chosen.
        pool: the photos without labels.
        train: photos of the labelled data set whose pixels were read.
        facts: `objective`, `train`, `steps`, `batch`, `rate`, `milestones` of the recipe.
    """
    licence, base_id = base_licence(base), hub_id(base)
    front = {"library_name": "transformers", "tags": ["dinov3", "natix_hf", "image-feature-extraction"]}
    front |= licence.front | ({"base_model": base_id} if base_id else {})
    shown = base_id or ("the demonstration backbone" if base.startswith("builtin:") else "a local checkpoint")
    unlabelled = pool.photos if pool else 0
    tied = len(pool.tied) if pool else 0
    heads = ["step", *SHARES, "k-NN", *(["forgetting"] if choice.forgetting_name else []), "beside the original"]
    rows = []
    for one in choice.candidates:
        gap = one.beside_original.get("100%")
        beside = "" if gap is None or gap.low is None else f"{gap.difference:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        values = [*one.probes.values(), one.knn, *([one.forgetting] if choice.forgetting_name else [])]
        cells = [str(one.step or "original"), *("-" if v is None else f"{v:.3f}" for v in values), beside]
        rows.append(cells)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            "# A DINOv3 backbone pretrained on street photos",
            "",
            f"Started from {shown} and pretrained with `natix_hf` on photos whose labels were not read. "
            f"{choice.reason[0].upper()}{choice.reason[1:]}.",
            "",
            f"- Photos: {train:,} of a labelled data set's training part and {unlabelled:,} without labels.",
            f"- Left out: {tied:,} photos without labels that are tied to rows by which models are chosen or judged.",
            f"- Objective: {facts['objective']}; trained: {facts['train']}; {facts['steps']:,} steps of "
            f"{facts['batch']} photos; learning rate {facts['rate']:g}.",
            f"- {LINEAGE if choice.chosen else UNTOUCHED}",
            "",
            "```python",
            "from transformers import AutoModel",
            "",
            "model = AutoModel.from_pretrained(...)  # an ordinary DINOv3 checkpoint",
            "```",
            "",
            "## Choice",
            "",
            f"{choice.metric} on {choice.rows} held-out photos in {choice.groups} groups, by probes on frozen "
            f"features with the given share of the labels; intervals at {choice.level:.1%} over groups.",
            "",
            *markdown_table(heads, rows),
            "",
            "## Licence",
            "",
            licence.text,
            "",
        ]
    )
