"""`run.json`: inputs, versions and training history of a run."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypedDict

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Positive, Some

NOT_FINISHED = "the run is not finished: finish it with --resume_from_checkpoint true first"


class Prefix(Part):
    """Cached activations below the last blocks.

    Attributes:
        drift: change of the features from rounding the activations, as a share of their spread.
    """

    blocks: Some
    views: Some
    precision: Literal["float32", "bfloat16"]
    gigabytes: Amount
    drift: Amount | None


class HonestRun(Part):
    """The run from which a refit has its recipe, number of steps, calibration and figures."""

    name: str
    steps: Some
    max_steps: Some


class Noted(TypedDict, total=False):
    """Fields of `run.json` that only special kinds of runs have."""

    refit: HonestRun
    pruned: bool


class RunRecord(Document):
    """A run after training. Later steps write their results to other files.

    Attributes:
        status: `finished` when training is over; `runs.folder.status` reports the later steps.
        purpose: sweep: compared with other runs on val_select, never tested; refit: trained on all rows, without own
            figures; pretrain: a backbone that was trained without labels; cascade: two models in sequence.
        hold_out: column -> values whose photos are only in val_test.
        attention: name of the attention implementation, `modeling.attention.Attention.name`.
        processes: number of training processes; a step includes the photos of all of them.
        max_steps: number of steps of the learning-rate schedule.
        training_shares: class shares to which the logits belong, if sampling, class weights or logit adjustment
            changed them from those of the photos.
        metric: metric by which the checkpoint was chosen and by which runs of a sweep are ranked.
        pruned: whether a search stopped the run early because it was worse than others.
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
