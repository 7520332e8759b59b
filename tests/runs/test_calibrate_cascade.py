"""A cascade's rows through the calibration that every run goes through."""

import dataclasses

import numpy as np
import pytest
from two_stages import Streets

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.cascade import StageRows
from natix_hf.decision.prior_shift import prior_bias
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.runs.calibrate_cascade import CascadeRows, cascade_rows
from natix_hf.runs.calibrate_run import decide, guaranteed
from natix_hf.runs.decision_options import DecisionOptions

NAMES = ["None", "Roadwork"]
BAND = ["0.12", "0.88"]
STREETS = Streets(7)
FIT, CONTROL = STREETS.draw(300), STREETS.draw(600)


def saved(rows: StageRows) -> SavedLogits:
    return SavedLogits(rows.full, rows.labels, rows.groups, whole=rows.early)


def cascaded(options: DecisionOptions, trained=None, fit=FIT) -> CascadeRows:
    return cascade_rows(saved(fit), saved(CONTROL), options, NAMES, 1, (trained, trained), cost=(1, 9))


def test_both_promises_are_in_the_document_and_share_risk_delta():
    exits = {"views_exit": ["risk"], "views_exit_alpha": 0.03, "views_exit_delta": 0.04}
    options = DecisionOptions(risk="fpr", risk_alpha=0.07, risk_delta=0.1, **exits)
    found = cascaded(options)
    document = decide(found.fit, options, None, NAMES, 1, found.trained, fitted_on="val_calib/fit")
    about = Calibration.from_document(document), found.control, options, NAMES, "val_calib/control"
    guarantee = guaranteed(*about, cascade=found.cascade)
    document = document.model_copy(update={"guarantee": guarantee, "cascade": found.cascade})
    assert CalibrationFile.parse(document.text(), "") == document
    assert (found.cascade.exit.certified, found.cascade.exit.delta) == (True, 0.04)
    assert guarantee.delta == pytest.approx(0.06)
    assert guarantee.reachable
    alone = guaranteed(*about)
    assert (alone.delta, alone.smallest_alpha < guarantee.smallest_alpha) == (0.1, True)
    given = cascaded(dataclasses.replace(options, views_exit=BAND)).cascade
    assert guaranteed(*about, cascade=given) == alone  # no promise takes a part of delta


def test_what_sampling_did_to_both_stages_is_undone_once():
    seen, trained = np.bincount(FIT.labels) / len(FIT.labels), np.array([0.8, 0.2])
    moved = prior_bias(seen, trained)
    sampled = FIT._replace(early=FIT.early + moved, full=FIT.full + moved)
    options = DecisionOptions(views_exit=BAND)
    plain, found = cascaded(options), cascaded(options, trained, sampled)
    np.testing.assert_allclose(found.fit.logits, plain.fit.logits)
    assert found.trained is None
    raw = cascaded(dataclasses.replace(options, calibrator=["none"]), trained, sampled)
    assert raw.trained is trained  # untouched logits still belong to the shares of training
