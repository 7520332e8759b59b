"""A report page out of thin air: rows, documents and pictures that fit each other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from finished_run import calibration_document, certificate
from photo_files import encoded
from PIL import Image

from natix_hf.decision.selective import selective_document
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.ledger import LedgerEntry
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.run_record import RunRecord
from natix_hf.report.page import report_html
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.report.robustness import Sent, robustness_document
from natix_hf.report.slices import slices_document
from natix_hf.report.summary import metrics_document
from natix_hf.streetvision.field import LATE_2025
from natix_hf.streetvision.reward import Photos, reward_document
from natix_hf.streetvision.reward_report import reward_sections


def picture(colour=(90, 120, 150), heat=True):
    overlay = encoded(Image.new("RGBA", (4, 3), (255, 80, 0, 120))) if heat else None
    return Picture(encoded(Image.new("RGB", (64, 48), colour), "JPEG"), 64, 48, overlay, (0.125, 0.0, 0.75, 1.0))


def rows(classes=2, n=160, seed=0, name="val_test"):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) * 1.5
    logits[np.arange(n), labels] += 2.5
    logits[:4, :2] = logits[:4, 1::-1] + 3 * (1 - 2 * np.eye(classes)[labels[:4]][:, :2])  # some sure mistakes
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, Rows(
        name,
        np.array([f"{name}-{i:03d}.jpg" for i in range(n)], dtype=object),
        labels,
        np.array([f"group{i // 2}" for i in range(n)], dtype=object),
        probabilities,
        probabilities,
        np.log(probabilities / (1 - probabilities)),
        logits.argmax(axis=1),
        {"weather": np.array(["rain", "sun"], dtype=object)[generator.integers(0, 2, n)]},
    )


def documents(names, logits, test):
    ledger = [
        {"step": "train", "role": "training", "split": "train", "part": None, "rows": 9, "time": 1.7e9},
        {"step": "predictions", "role": "policy", "split": "val_calib", "part": "fit", "rows": 5, "time": 1.7e9 + 60},
        {"step": "predictions", "role": "policy", "split": "val_calib", "part": "fit", "rows": 5, "time": 1.7e9 + 120},
    ]
    return RunDocuments(
        metrics=metrics_document(
            logits, logits, test.labels, test.groups, label_names=names, times_read_before=3, n_boot=50
        ),
        calibration=CalibrationFile.check(calibration_document(len(names))),
        record=RunRecord(
            status="finished",
            log_history=[{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5, "eval_loss": 0.6, "eval_mcc": 0.8}],
        ),
        ledger=[LedgerEntry(fingerprint="", **entry) for entry in ledger],
        splits=certificate(list(names), None),
    )


def make(names=("None", "Roadwork"), change=lambda test: test, pictures=None, **more):
    logits, test = rows(len(names))
    test = change(test)
    given = {} if pictures is None else pictures
    extra = reward_sections(more.pop("reward", None))
    return report_html(
        "lora", replace(documents(list(names), logits, test), **more), test, pictures=given, extra=extra
    )


def further_documents(names, logits, test):
    """The documents that a run may have or not."""
    about = (test.labels, test.groups)

    def sent(level, noise):
        noisy = logits + np.random.default_rng(level).normal(0, noise, logits.shape)
        return Sent(level, None, None, noisy)

    return {
        "slices": slices_document(logits, *about, test.slices, names, n_boot=50),
        "selective": selective_document(logits, *about, None, 1, n_boot=20),
        "reward": reward_document(
            [Photos("clean", None, logits, *about)], LATE_2025, label_names=names, days=5, n_boot=9
        ),
        "robustness": robustness_document(
            logits,
            {"challenge@2025": [sent(level, 0.6 * level) for level in range(4)]},
            *about,
            label_names=names,
            n_boot=20,
        ),
    }


@pytest.fixture(scope="session")
def parts():
    return SimpleNamespace(
        picture=picture, rows=rows, documents=documents, further_documents=further_documents, make=make
    )
