"""`run.json`: what a run was made from and by, and how its training went."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypedDict

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Positive, Some


class Prefix(Part):
    """Activations that were kept below the last blocks.

    Attributes:
        drift: how far rounding them moves the features, as a share of their spread.
    """

    blocks: Some
    views: Some
    precision: Literal["float32", "bfloat16"]
    gigabytes: Amount
    drift: Amount | None


class HonestRun(Part):
    """The run whose recipe, steps, calibration and figures a refit took over."""

    name: str
    steps: Some
    max_steps: Some


class Noted(TypedDict, total=False):
    """What a run of its own kind notes in its `run.json`."""

    refit: HonestRun
    pruned: bool


class RunRecord(Document):
    """A run as its training left it; what later steps find stands in files of their own.

    Attributes:
        status: `finished` once training is over; `runs.folder.status` tells of the steps behind it.
        purpose: sweep: chosen among by val_select, never tested; refit: trained on all rows, without own figures;
            pretrain: a backbone that learned without labels; cascade: two runs that answer one after the other.
        hold_out: column -> values whose photos are in val_test alone, never in training.
        attention: that ran, `modeling.attention.Attention.name`.
        processes: that trained together; the photos of one step are those of all of them.
        max_steps: steps that the learning rate's schedule was laid out for.
        training_shares: class shares to which the logits belong, where sampling, weights or adjustment made them
            others than the photos'.
        metric: what the checkpoint was chosen by, and what a run of a sweep is ranked by.
        pruned: whether a search ended it early since it fell behind.
    """

    file_name: ClassVar[str] = "run.json"
    edition: ClassVar[int] = 2
    mend: ClassVar[str] = "train the run again with this release: natix-hf train {folder}/recipe.yaml"

    status: Literal["training", "finished"]
    started: str | None = None
    finished: str | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    processes: Some | None = None
    attention: str | None = None
    method: str | None = None
    positive: Count = 1
    training_shares: list[Positive] | None = None
    seeds: dict[str, int] | None = None
    fingerprints: dict[str, str] | None = None
    prefix: Prefix | None = None
    purpose: Literal["run", "sweep", "refit", "pretrain", "cascade"] | None = None
    hold_out: dict[str, list[str]] | None = None
    steps: int | None = None
    max_steps: Some | None = None
    best_step: int | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    log_history: list[dict[str, Any]] | None = None
    refit: HonestRun | None = None
    metric: str | None = None
    pruned: bool | None = None
