"""Options of sharpness-aware minimization (Foret et al., 2021); `sharpness.py` runs its passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from natix_hf.options import option
from natix_hf.training.optimizers.optimizer import Optimizer


@dataclass
class SamOptions:
    """The options of sam."""

    sam_base: str = option("adamw_torch", "optimizer that makes the step of sam")
    sam_rho: float = option(0.05, "sam: length of the climb before the gradient is taken")
    sam_adaptive: bool = option(
        False, "sam: scale the climb by each weight (ASAM); use a sam_rho about ten times as large"
    )


@dataclass(frozen=True)
class Sam(Optimizer):
    """Computes the gradient at a nearby point and leaves the step to `sam_base`."""

    under_sam: ClassVar[bool] = False

    def passes(self, args: Any) -> Any:
        from natix_hf.training.optimizers.sharpness import SharpnessAware

        return SharpnessAware(args.sam_rho, adaptive=args.sam_adaptive)
