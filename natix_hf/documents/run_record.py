"""`run.json`: where a run came from, which rows each step read, and where its time went."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Positive, Share, Some


class LedgerEntry(Part):
    """Rows that a step read, at `time` (seconds since 1970)."""

    step: str
    role: Literal["training", "selection", "policy", "final_evaluation", "refit"]
    split: Literal["train", "val_select", "val_calib", "val_test"]
    part: Literal["fit", "control"] | None = None
    rows: Count
    fingerprint: str
    time: float | None = None


class Passes(Part):
    """Photos through the frozen backbone (features) or the blocks below the cut (prefixes), forward alone.

    Attributes:
        served: photos that came from the cache instead.
    """

    photos: Count
    served: Count
    seconds: Amount
    photos_per_second: Amount | None
    waiting: Share
    flop_per_photo: int | None
    flop_per_second: float | None
    share_of_peak: float | None


class Speed(Part):
    """Photos a second, share of time spent waiting for data, operations, peak memory."""

    photos: Some | None = None
    photos_per_second: Amount | None = None
    waiting: Share | None = None
    beside: Share | None = None
    flop_per_photo: int | None = None
    flop_per_second: float | None = None
    peak_flop_per_second: float | None = None
    share_of_peak: float | None = None
    passes: dict[Literal["features", "prefixes"], Passes] | None = None
    peak_memory_mib: Amount
    bottleneck: str


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


class RunRecord(Document):
    """A run as it stands.

    Attributes:
        purpose: sweep: chosen among by val_select, never tested; refit: trained on all rows, without own figures.
        hold_out: column -> values whose photos are in val_test alone, never in training.
        processes: that trained together; the photos of one step are those of all of them.
        max_steps: steps that the learning rate's schedule was laid out for.
        training_shares: class shares to which the logits belong, where sampling, weights or adjustment made them
            others than the photos'.
        time: seconds by phase.
        metric: what a run of a sweep is ranked by.
        pruned: whether a search ended it early since it fell behind.
        calibration_of_figures: fingerprint of the `calibration.json` that the figures were computed with.
    """

    file_name: ClassVar[str] = "run.json"

    status: Literal["training", "evaluating", "finished"]
    started: str | None = None
    finished: str | None = None
    versions: dict[str, str | None]
    processes: Some | None = None
    method: str | None = None
    positive: Count | None = None
    decision: dict[str, Any] | None = None
    training_shares: list[Positive] | None = None
    seeds: dict[str, int] | None = None
    fingerprints: dict[str, Any] | None = None
    ledger: list[LedgerEntry] | None = None
    time: dict[str, Amount] | None = None
    speed: Speed | None = None
    prefix: Prefix | None = None
    purpose: Literal["run", "sweep", "refit"] | None = None
    hold_out: dict[str, list[str]] | None = None
    steps: int | None = None
    max_steps: Some | None = None
    best_step: int | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    log_history: list[dict[str, Any]] | None = None
    calibration_of_figures: str | None = None
    refit: HonestRun | None = None
    metric: str | None = None
    pruned: bool | None = None
