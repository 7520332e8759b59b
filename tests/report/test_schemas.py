"""The schemas themselves, and the line that a wrong file gives."""

import jsonschema
import pytest

from natix_hf.errors import UserError
from natix_hf.schemas import schema, validate

CALIBRATION = {
    "version": 1,
    "calibrator": "temperature",
    "fitted_on": "val_calib/fit",
    "n": 150,
    "temperature": 1.3,
    "kept": True,
    "nll_before": 0.21,
    "nll_after": 0.2,
    "ece_before": 0.03,
    "ece_after": 0.02,
    "logit_bias": [0.0, 0.0],
    "prior_bias": [0.0, 0.0],
    "threshold_bias": [0.0, 0.0],
}
RUN = {
    "versions": {"natix_hf": "0.1.0"},
    "seeds": {"seed": 42},
    "fingerprints": {"train": "ab"},
    "ledger": [{"step": "train", "role": "training", "split": "train", "part": None, "rows": 9, "fingerprint": "ab"}],
    "time": {"training": 12.5},
    "status": "finished",
}


@pytest.mark.parametrize("name", ["calibration", "metrics", "run", "splits"])
def test_every_schema_is_valid(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_right_documents_pass():
    validate(CALIBRATION, "calibration")
    validate(RUN | {"anything": "more"}, "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1242}, r"calibration.json: at \$.temperature: -1242"),
        ({"kept": "yes"}, r"at \$.kept"),
        ({"logit_bias": [0.0]}, r"at \$.logit_bias"),
        ({"tempreature": 1.0}, "'tempreature' was unexpected"),
    ],
)
def test_a_wrong_document_names_file_and_place(change, message):
    with pytest.raises(UserError, match=message):
        validate(CALIBRATION | change, "calibration")


def test_a_ledger_entry_outside_the_roles_is_refused():
    with pytest.raises(UserError, match=r"\$.ledger\[0\].role"):
        validate(RUN | {"ledger": [RUN["ledger"][0] | {"role": "peeking"}]}, "run")
