"""The pictures of decisions draw the curves that they are given and name n."""

import numpy as np
import pytest
from finished_run import THRESHOLD_CHOICE
from PIL import Image
from two_stages import cascade_documents

from natix_hf.documents.calibration import ThresholdChoice
from natix_hf.documents.selective import AmountInterval, RiskCurve, Selective
from natix_hf.report import figures, figures_decisions


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    save = figures.save_figure
    monkeypatch.setattr(
        figures_decisions, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))
    )
    return kept


def test_threshold(tmp_path, drawn):
    changed = {"threshold": 0.4, "low": 0.3, "high": 0.6, "n": 48, "groups": 30}
    changed |= {"curve": {"threshold": [0.1, 0.4, 0.9], "value": [0.2, 0.9, 0.1]}}
    choice = ThresholdChoice.check(THRESHOLD_CHOICE | changed, "")
    figures_decisions.threshold_figure(choice, "val_calib/fit", tmp_path / "threshold.png")
    (axes,) = drawn[0].axes
    assert axes.lines[1].get_xydata().tolist() == [[0.1, 0.2], [0.4, 0.9], [0.9, 0.1]]
    assert axes.get_title() == "48 photos in 30 groups of val_calib/fit"
    assert Image.open(tmp_path / "threshold.png").size[0] > 600


def test_risk_and_coverage(tmp_path, drawn):
    area = AmountInterval(value=0.125, low=0.1, high=0.2)
    curve = RiskCurve(coverage=[0.5, 1.0], risk=[0.0, 0.25])
    about = {"split": "val_test", "level": 0.95, "resamples": 20, "guarantee": None, "band": None}
    document = Selective(curve=curve, aurc=area, augrc=area, n=4, groups=3, **about)
    figures_decisions.risk_coverage_figure(document, tmp_path / "risk.png")
    (axes,) = drawn[0].axes
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 0.0], [1.0, 0.25]]
    assert axes.get_title() == "AURC 0.125 (0.100 to 0.200), 4 photos in 3 groups"


def test_cost_and_error(tmp_path, drawn):
    _, selective = cascade_documents()
    found = selective.cascade
    figures_decisions.cost_figure(found, "val_test", tmp_path / "cost.png")
    (axes,) = drawn[0].axes
    assert axes.lines[0].get_xydata().tolist() == [list(pair) for pair in zip(found.curve.cost, found.curve.error)]
    assert axes.lines[2].get_xydata().tolist() == [[found.mean_cost.value, found.error.value]]
    assert axes.get_title() == f"{found.error.n} photos in {found.error.groups} groups of val_test"


def test_ranking(tmp_path, drawn):
    is_positive = np.array([True, True, True, True, False, False])
    score = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.1])
    figures_decisions.ranking_figure(score, is_positive, score > 0.5, "Roadwork", tmp_path / "ranking.png")
    roc, curve = drawn[0].axes
    assert roc.get_title() == curve.get_title() == "4 photos of Roadwork, 2 others"
    assert [line.get_xydata().tolist() for line in (roc.lines[-1], curve.lines[-1])] == [[[0.5, 0.75]], [[0.75, 0.75]]]
