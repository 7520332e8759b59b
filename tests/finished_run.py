"""A finished run as documents, without a model and without training: what cards, pages and bundles are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from natix_hf.data.splits.certificate import SIZES, read_certificate
from natix_hf.decision.risk_control import capacity_line, control_risk, guarantee_line
from natix_hf.decision.selective import selective_document
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.document import Document
from natix_hf.documents.final_figures import Stage, Stages
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.documents.step_record import StepRecord
from natix_hf.hub.cards import model_card
from natix_hf.logits import softmax
from natix_hf.report.intervals import bootstrap_intervals, paired_differences
from natix_hf.report.robustness import Sent, robustness_document
from natix_hf.report.slices import slices_document
from natix_hf.report.summary import metrics_document
from natix_hf.streetvision.field import LATE_2025
from natix_hf.streetvision.reward import Photos, reward_document


def note_steps(run: Path, **options: Any) -> None:
    """Write the records of all steps that end a run, of whatever purpose; `options` are those of the predictions."""
    for name in ("predict", "report", "card"):
        StepRecord(
            name=name,
            reads={},
            writes={},
            options=options,
            versions={},
            started="2026-01-02T03:04:05+00:00",
            seconds=1,
        ).note(run)


WRITTEN = {
    "over_probe": OverProbe,
    "calibration": CalibrationFile,
    "run": RunRecord,
    "gallery": Gallery,
}
NAMES = ["None", "Roadwork"]
ODD = ("[39.7, -86.1]", "IMG_0001.JPG")  # values of metadata that are a place and a file: never to be published
RECIPE = {
    "model_name_or_path": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dataset_name": "natix-network-org/roadwork",
    "method": "lora",
    "learning_rate": 0.0002,
    "num_train_epochs": 3.0,
    "lora_r": 16,
    "lora_target_modules": ["all-linear"],
    "image_size": 224,
    "seed": 42,
}


THRESHOLD_CHOICE = {
    "metric": "mcc", "measures": "mcc", "threshold": 0.48, "low": 0.4, "high": 0.6, "value": 0.9,
    "value_low": 0.85, "value_high": 0.95, "at_half": 0.89, "n": 75, "groups": 40, "reachable": True,
    "constraint": None, "curve": {"threshold": [0.4, 0.5, 0.6], "value": [0.8, 0.9, 0.85]}, "held_out": None,
}  # fmt: skip


def calibration_document(classes: int = 2, **changes: Any) -> dict:
    """The content of `calibration.json`: a temperature of 1.5, fitted on 75 photos in 40 groups."""
    return {
        "version": 2, "calibrator": "temperature", "kept": True, "fitted_on": "val_calib/fit", "n": 75,
        "groups": 40, "calibrate_on": "clean", "positive": 1, "temperature": [1.5] * classes, "isotonic": None,
        "nll_before": 0.3, "nll_after": 0.2, "ece_before": 0.05, "ece_after": 0.02, "candidates": [],
        "prior": {"seen": [1 / classes] * classes, "target": None}, "threshold": 0.5, "folded": False,
        "threshold_choice": None,
        **{f"{name}_bias": [0.0] * classes for name in ("calibrator", "prior", "threshold", "logit")},
        "guarantee": None, "compared": None, "options": {"calibrator": ["temperature"]}, "notes": [],
        **changes,
    }  # fmt: skip


def certificate(classes: list[str], ratios: list[float] | None, **changes: Any) -> SplitCertificate:
    """A certificate in which every class has 30 photos in every split."""
    sizes = {"train": 600, "val_select": 150, "val_calib": 150, "val_test": 120}
    places = (*sizes, "val_calib/fit", "val_calib/control")
    counts = dict.fromkeys(classes, 30)
    shares = {split: dict.fromkeys(classes, 1 / len(classes)) for split in sizes}
    content = {
        "label_names": classes,
        "ratios": ratios,
        "seed": 0,
        "strata": [],
        "hold_out": {},
        "rules": {"group_columns": ["video"], "metres": None, "seconds": None, "near_duplicates": True},
        "sizes": sizes,
        "reached": {split: size / sum(sizes.values()) for split, size in sizes.items()},
        "class_counts": dict.fromkeys(places, counts),
        "prior_shift": {"chi2": 0.0, "dof": 3, "p": 1.0, "shares": shares},
        "groups": dict.fromkeys(places, 40),
        "group_sizes": {place: dict.fromkeys(SIZES, 8) for place in places},
        "largest_group": {"name": "v1", "rows": 9, "share": 0.01},
        "sources": {"all": 1020},
        "repeated_photos": 0,
        "fingerprint": "0123abcd" * 4,
        "fingerprints": dict.fromkeys(places, "0" * 32),
        "byte_fingerprints": dict.fromkeys(places, "1" * 32),
        "ids": {split: [] for split in sizes},
        "parts": {"val_calib": {"fit": [], "control": []}},
        "ties": {"video": 12, "bytes": 0, "near-duplicate": 5},
        "straddling": 0,
        "conflicts": [],
        "broken": [],
        "dropped": [],
        "set_aside": [],
    }
    return SplitCertificate.sealed(**content | changes)


def card_of(run: Path, *about: Any, **more: Any) -> str:
    """The card of the run in a folder."""
    return model_card(run, RunDocuments.read(run, read_certificate(run)), *about, **more)


def write_finished_run(
    run: Path, *, photo: str = "photo-{:04d}.jpg", group: str = "street-{:03d}", n: int = 240, **recipe: Any
) -> Path:
    """Everything but weights: documents, predictions, pictures, a page, a gallery.

    Args:
        run: the folder.
        photo, group: names with a place for a number.
        n: photos of val_test.
        recipe: changes to `RECIPE`.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    logits = rng.normal(size=(n, 2)) * 1.5
    logits[np.arange(n), labels] += 3
    ids = np.array([photo.format(i) for i in range(n)], dtype=object)
    groups = np.array([group.format(i // 2) for i in range(n)], dtype=object)
    slices = {
        "weather": np.array(["rain", "sun"], dtype=object)[rng.integers(0, 2, n)],
        # what must not get through: the name of a photo, of a group, a place, and a photo's file
        "tag": np.array([ids[0], groups[2], "[39.7, -86.1]", "IMG_0001.JPG", "harmless"], dtype=object)[
            np.arange(n) % 5
        ],
    }
    positive, calibrated = 1, logits / 2
    guarantee = control_risk(
        softmax(calibrated)[:, 1], labels == 1, groups, risk="fpr", alpha=0.1, delta=0.1, threshold=0.5,
        fitted_on="val_calib/control", prevalence=None,
    )  # fmt: skip
    lines = [capacity_line(guarantee, NAMES), guarantee_line(guarantee, NAMES)]
    guarantee = guarantee.model_copy(update={"lines": lines})
    metrics = metrics_document(calibrated, logits, labels, groups, label_names=NAMES, times_read_before=2, n_boot=50)
    step = {name: metrics.metrics[name] for name in ("accuracy", "mcc", "ece")}
    step |= {"nll": metrics.metrics["log_loss"], "brier": metrics.metrics["log_loss"]}
    steps = [Stage(step="uncalibrated", figures=step), Stage(step="calibrator", figures=step)]
    stages = Stages(shares=[0.5, 0.5], n=n, groups=metrics.groups, steps=steps)
    metrics = metrics.model_copy(update={"stages": stages})
    about = {"label_names": NAMES, "positive": positive}
    noisy = [Sent(level, None, None, logits + rng.normal(0, 0.6 * level + 0.1, logits.shape)) for level in range(4)]
    photos = [Photos("clean", source, calibrated, labels, groups) for source in (None, ids[0], "/home/me/street")]
    probe = logits + rng.normal(0, 2, logits.shape)
    changes = paired_differences(logits, probe, labels, groups, n_boot=50)
    sides = [bootstrap_intervals(one, labels, groups, n_boot=50) for one in (probe, logits)]
    splits = certificate(
        NAMES,
        [0.6, 0.15, 0.15, 0.1],
        ids={"train": [], "val_select": [], "val_calib": [], "val_test": list(ids)},
        broken=[{"id": photo.format(9999), "reason": "cannot be opened"}],
        largest_group={"name": group.format(0), "rows": 2, "share": 0.01},
        sources={"/home/me/street": n, "public": 3},
        hold_out={"video": [groups[0], "rain"]},
    )
    documents = {
        "config": {"id2label": dict(enumerate(NAMES))},
        "metrics": metrics,
        "slices": slices_document(calibrated, labels, groups, slices, NAMES, n_boot=50),
        "selective": selective_document(calibrated, labels, groups, guarantee, positive, n_boot=20),
        "robustness": robustness_document(calibrated, {"challenge@2025": noisy}, labels, groups, n_boot=20, **about),
        "reward": reward_document(photos, LATE_2025, days=5, n_boot=9, **about),
        "over_probe": {
            "version": 1, "split": "val_test", "n": n, "groups": metrics.groups,
            "metrics": {
                name: {"probe": sides[0][name], "tuned": sides[1][name], "difference": changes[name]}
                for name in ("mcc", "accuracy")
            },
        },
        "calibration": calibration_document(
            temperature=[2.0, 2.0],
            threshold_choice=THRESHOLD_CHOICE,
            guarantee=guarantee.plain(),
            notes=[f"the row {ids[3]} was left out"],
        ),
        "run": {
            "version": 2, "status": "finished", "finished": "2026-01-02T03:04:05+00:00", "method": "lora",
            "positive": 1,
            "versions": {"natix_hf": "0.1.0", "torch": "2.14.1"}, "seeds": {"seed": 42},
            "fingerprints": splits.fingerprints,
            "log_history": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}],
        },
        "splits": splits,
        "gallery": {"version": 1, "max_side": 640, "photos": []},
        "photo_cost": PhotoCost(
            views=1, height=224, width=224, tokens=201, flop=9_240_000_000, seconds=0.0614, batch=1,
            device="cpu, 1 threads",
        ),
    }  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        if isinstance(document, Document):
            document.write(run)
            continue
        if name in WRITTEN:
            document = json.loads(json.dumps(document).replace("NaN", "null"))
            WRITTEN[name].check(document)
        if name != "config" or not (run / "config.json").exists():
            (run / f"{name}.json").write_text(json.dumps(document))
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | recipe))
    for split in ("val_test", "val_select"):
        path = run / "predictions" / f"{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = {"id": list(ids), "group": list(groups), "label": labels, "logits": logits.tolist()}
        pq.write_table(pa.table(columns), path)
    for name in (
        "figures/reliability",
        "figures/confusion",
        "figures/reward",
        "figures/attention",
        "gallery/val_test-0",
    ):
        (run / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(run / f"{name}.png")
    (run / "report.html").write_text(f"<p>{ids[0]}</p>")
    note_steps(run)
    return run
