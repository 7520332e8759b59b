"""The recipe keys for turning logits into probabilities and decisions."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_type_hints

from natix_hf.decision.calibrators import CALIBRATORS, check_candidates
from natix_hf.decision.exit_options import ExitOptions
from natix_hf.errors import CommandParser, UserError
from natix_hf.options import option


def true_or_false(text: str) -> bool:
    """The type of an option that is `true` or `false`."""
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"expected true or false, found '{text}'")
    return text.lower() == "true"


def add_fold_threshold(parser: CommandParser, default: bool | None) -> None:
    """`--fold_threshold`, alone or with true or false."""
    parser.add_argument(
        "--fold_threshold",
        type=true_or_false,
        nargs="?",
        const=True,
        default=default,
        help="true: decide at the best threshold, by shifting it to 0.5",
    )


@dataclass
class DecisionOptions(ExitOptions):
    """Options for turning logits into probabilities and decisions; all are fitted on val_calib, after training."""

    _argument_group_name: ClassVar[str] = "decision"

    calibrator: list[str] = option(
        ["temperature"],
        f"one or more of {', '.join(CALIBRATORS)}; the one that predicts held-out groups of val_calib best is used, "
        "and none if nothing is clearly better than the raw logits",
    )
    target_prior: list[float] | None = option(
        None,
        "class shares expected in use, in the order of the ids; for two classes the share of the positive one is "
        "enough, e.g. 0.5; probabilities are adjusted to them",
    )
    threshold_metric: str = option(
        "mcc", "what the threshold maximises: mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P or recall>=R"
    )
    fold_threshold: bool = option(
        False, "decide at that threshold: shift the model's bias so that it becomes 0.5; otherwise only report it"
    )
    calibrate_on: Literal["clean", "challenge@2025", "challenge@2026-04", "challenge@2026-05"] = option(
        "clean", "calibrate on val_calib as it is (clean) or as a challenge sends it; the other is reported too"
    )
    risk: Literal["none", "fpr", "fnr", "error", "precision"] = option(
        "none", "rate to guarantee on the control part of val_calib, by leaving doubtful photos to a person"
    )
    risk_alpha: float = option(0.02, "highest rate allowed (for precision: 1 minus the lowest precision)")
    risk_delta: float = option(0.1, "probability that the guarantee fails")
    prevalence: float | None = option(None, "share of positives that a guarantee of precision assumes")
    calibrate_views: int = option(
        1, "calibrate_on: how many times each photo of val_calib is distorted, drawn anew each time"
    )
    robustness: list[str] = option([], "challenge profiles under which val_test is also measured")
    slices: list[str] = option(
        [],
        "metadata columns to break the figures down by, also resolution and orientation (landscape, portrait); "
        "default: all with 2 to 50 values, and orientation if image_size is a rectangle",
    )

    def __post_init__(self):
        from natix_hf.decision.prior import check_target_prior
        from natix_hf.decision.threshold import parse_metric

        super().__post_init__()
        check_candidates(self.calibrator)
        if self.target_prior:
            check_target_prior(self.target_prior)
        parse_metric(self.threshold_metric)
        for name in ("calibrate_on", "risk"):  # Python and natix_hf.calibrate come without the recipe's checks
            known = get_args(get_type_hints(DecisionOptions)[name])
            if getattr(self, name) not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}; found '{getattr(self, name)}'")
        for name, share in (("risk_alpha", self.risk_alpha), ("risk_delta", self.risk_delta)):
            if not 0 < share < 1:
                raise UserError(f"{name}: expected a number above 0 and below 1, found {share:g}")
        if self.calibrate_views < 1:
            raise UserError(f"calibrate_views: expected at least 1, found {self.calibrate_views}")
        if self.robustness:  # the profiles import torch
            from natix_hf.streetvision.profiles import check_profiles

            check_profiles(self.robustness, "robustness")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise UserError(f"prevalence: expected a share above 0 and below 1, found {self.prevalence:g}")
        if self.risk == "precision" and self.prevalence is None:
            raise UserError("risk: precision depends on how common positives are: add prevalence (--prevalence 0.02)")
