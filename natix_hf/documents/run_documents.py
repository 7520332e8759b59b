"""All documents of an evaluated run, read once for its card, its page and its publication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import TwoModels
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.ledger import LedgerEntry, read_ledger
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError

OPTIONAL = {
    "calibration": CalibrationFile,
    "slices": Slices,
    "selective": Selective,
    "robustness": Robustness,
    "reward": Reward,
    "over_probe": OverProbe,
    "speed": RunSpeed,
    "photo_cost": PhotoCost,
    "two_models": TwoModels,
}


@dataclass(frozen=True)
class RunDocuments:
    """The documents of one run; None for documents that it does not have.

    Attributes:
        ledger: which steps read which rows, the earliest first.
    """

    record: RunRecord
    splits: SplitCertificate
    metrics: FinalFigures
    calibration: CalibrationFile | None = None
    slices: Slices | None = None
    selective: Selective | None = None
    robustness: Robustness | None = None
    reward: Reward | None = None
    over_probe: OverProbe | None = None
    speed: RunSpeed | None = None
    photo_cost: PhotoCost | None = None
    two_models: TwoModels | None = None
    ledger: Sequence[LedgerEntry] = ()

    @classmethod
    def read(cls, run: Path, splits: SplitCertificate) -> Self:
        """Read the documents in a run folder.

        Args:
            run: the run folder.
            splits: the certificate of its splits, already read.

        Raises:
            UserError: the run was never evaluated, or one of its files is missing or damaged.
        """
        for name, mend in (("run.json", "bring the file back"), (FinalFigures.file_name, FinalFigures.mend)):
            if not (run / name).is_file():
                raise UserError(f"{run}: no {name}, so there is nothing to report: {mend.format(folder=run)}")
        optional = {name: kind.read(run) for name, kind in OPTIONAL.items() if kind.there(run)}
        return cls(RunRecord.read(run), splits, FinalFigures.read(run), ledger=read_ledger(run), **optional)
