"""The recipe keys for the purpose of a run.

An ordinary run, a run of a sweep, a refit and a learning-rate range test train in the same way. They differ in the
rows that they may read (`data.splits.contracts.PURPOSES`) and in the files that they write.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from natix_hf.errors import UserError
from natix_hf.options import option


@dataclass
class PurposeOptions:
    """The purpose of a run that is not an ordinary one."""

    _argument_group_name: ClassVar[str] = "purpose"

    find_lr: bool = option(
        False, "try rising learning rates on train, draw the curve in OUTPUT_DIR-find_lr, suggest one and stop"
    )
    sweep: bool = option(False, "stop after the score on val_select, without reading val_test; set by natix-hf sweep")
    trial: int | None = option(None, "number of this run in a search; set by natix-hf sweep")
    refit: Literal["none", "all"] = option(
        "none", "all: train the run refit_from again on the rows of all four splits"
    )
    until: Literal["split", "train", "predict", "calibrate", "assemble", "show", "evaluate", "report"] = option(
        "report", "stop after this step; --resume_from_checkpoint true goes on from there"
    )
    refit_from: str | None = option(
        None, "(or --from) finished run of this recipe whose steps, calibration and figures the refit keeps"
    )

    def __post_init__(self):
        chosen = [key for key, on in (("find_lr", self.find_lr), ("sweep", self.sweep), ("refit", self.refits)) if on]
        if len(chosen) > 1:
            words = " or ".join(f"--{key} {'none' if key == 'refit' else 'false'}" for key in chosen)
            raise UserError(f"{' and '.join(chosen)}: a run has only one purpose: turn the others off with {words}")
        if self.trial is not None and not self.sweep:
            raise UserError("trial: only for a run of a sweep: remove it with --trial null")
        if self.refits and self.refit_from is None:
            raise UserError(
                "refit: no run given: add --from runs/NAME, a finished run of this recipe, or leave it out with "
                "--refit none"
            )
        if self.until != "report" and chosen:
            raise UserError(f"until: {self.until} is a step of an ordinary run, not of {chosen[0]}: leave it out")
        if self.refit_from is not None and not self.refits:
            raise UserError("refit_from: nothing is refitted: add --refit all, or leave it out with --refit_from null")

    @property
    def refits(self) -> bool:
        return self.refit != "none"

    @property
    def kind(self) -> str:
        """The purpose as the locked splits name it."""
        if self.refits:
            return "refit"
        return "range test" if self.find_lr else "sweep" if self.sweep else "run"
