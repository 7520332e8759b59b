"""What happens once after training: logits written down, calibration on `val_calib`, one look at `val_test`.

Everything behind `write_predictions` works from the files of the run folder, so `natix_hf.calibrate` and
`natix_hf.evaluate` do the same again without the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import count_final_read
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.selective import selective_document
from natix_hf.decision.temperature import softmax
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.run_record import RunRecord
from natix_hf.errors import LeakageError
from natix_hf.files import fingerprint_file, read_json, replacing, staging, write_json, write_text
from natix_hf.hub.cards import model_card
from natix_hf.report import figures
from natix_hf.report.slices import slices_document
from natix_hf.report.summary import metrics_document, summary_lines
from natix_hf.runs import folder as run_folder
from natix_hf.runs.calibrate_run import calibrate_run, carried
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.figures_by_stage import stages_document
from natix_hf.runs.gallery import keep_photos
from natix_hf.runs.measure_robustness import challenge_documents, note_latency, predict_challenged
from natix_hf.runs.over_probe import over_probe, over_probe_lines
from natix_hf.runs.report_page import write_decision_figures, write_report
from natix_hf.runs.saved_logits import check_classes, read_predictions, write_predictions
from natix_hf.streetvision.field import Field
from natix_hf.training.bottleneck import speed_lines

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer

# What is predicted after training: file, role, part of val_calib.
TABLES = (
    ("val_select", "selection", (None,)),
    ("val_calib", "policy", ("fit", "control")),
    ("val_test", "final_evaluation", (None,)),
)


def write_into_weights(run: Path, calibration: dict[str, Any]) -> None:
    """Put a calibration into the saved head (model and adapter) and config, without building the model."""
    import torch
    from safetensors.torch import load_file, save_file

    config, whole = read_json(run / "config.json"), carried(calibration)
    # float32, as the head holds them
    values = {name: torch.tensor(whole[name]).tolist() for name in ("temperature", "logit_bias")}
    for path in [*run.glob("*.safetensors"), *(run / "adapter").glob("*.safetensors")]:
        tensors = load_file(path)
        names = {name: tensors[name] for name in tensors if name.rpartition(".")[2] in values and "head" in name}
        if names:
            for name, old in names.items():
                tensors[name] = torch.tensor(values[name.rpartition(".")[2]], dtype=old.dtype)
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"format": "pt"})
                temporary.chmod(0o644)
    write_json(run / "config.json", {**config, **whole, **values})
    if (run / "adapter" / "config.json").is_file():
        write_json(run / "adapter" / "config.json", {**read_json(run / "adapter" / "config.json"), **whole, **values})


def evaluate_run(
    run: Path, *, seed: int = 0, field: Field | None = None, noted: Sequence[dict[str, Any]] = ()
) -> FinalFigures:
    """Final figures from `predictions/val_test.parquet` with the run's calibration, written to `metrics.json`.

    The reading is noted in `run.json` and in the machine's count of test reads. A refit reads nothing: what it holds
    are the figures of the honest run, and stays so.

    Args:
        run: a folder whose training is finished.
        seed: of the bootstrap.
        field: scores of other participants, for `reward.json`; by default a record that is not confirmed.
        noted: entries of the ledger that come before this reading and stand nowhere yet.

    Raises:
        LeakageError: the run is one of a sweep, which may not read `val_test`.
        UserError: a file of the run is missing or not what it should be; nothing is read, counted or written then.
    """
    run = Path(run)
    record = read_json(run / "run.json")
    if record.get("purpose") == "refit":
        return FinalFigures.read(run)
    if record.get("purpose") == "sweep":
        raise LeakageError(f"step 'final figures' asked for val_test of {run}: {run_folder.SWEPT}")
    fitted, splits = CalibrationFile.read(run), read_certificate(run)
    decided = fitted.plain()
    names, calibration = splits["label_names"], Calibration.from_document(decided)
    there = ("val_calib",) if (run / "predictions" / "val_calib.parquet").is_file() else ()
    for split in (*there, "val_select", "val_test"):  # card and page read the others too, when all else is written
        rows = read_predictions(run, split)
        check_classes(rows, names, f"{run}: predictions/{split}.parquet")
    logits, calibrated = calibration.served(rows["logits"]), calibration.calibrated(rows["logits"])
    evaluated = hashlib.blake2b(digest_size=16)
    evaluated.update((run / "predictions" / "val_test.parquet").read_bytes())
    evaluated.update(json.dumps(carried(decided), sort_keys=True).encode())
    fingerprint = splits["fingerprints"]["val_test"]
    before = count_final_read(fingerprint, evaluated.hexdigest(), run.name)
    document = metrics_document(
        logits,
        rows["logits"],
        rows["label"],
        rows["group"],
        label_names=names,
        positive=record["positive"],
        split="val_test",
        times_read_before=before,
        stages=stages_document(rows, calibration, decided["prior"]["target"], seed=seed),
        seed=seed,
    )
    document.write(run)
    decisions = logits.argmax(axis=1)
    selective_document(
        calibrated, rows["label"], rows["group"], fitted.guarantee, record["positive"], decisions=decisions, seed=seed
    ).write(run)
    if rows["slices"]:
        sliced = slices_document(
            logits, rows["label"], rows["group"], rows["slices"], names, record["positive"], seed=seed
        )
        sliced.write(run)
    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    with replacing(folder / "reliability.png") as path:
        figures.reliability(softmax(rows["logits"]), softmax(calibrated), rows["label"], path)
    with replacing(folder / "confusion.png") as path:
        figures.confusion(rows["label"], logits.argmax(axis=1), names, path)
    about = {"label_names": names, "positive": record["positive"], "seed": seed}
    challenge_documents(run, rows, calibration, field=field, **about)
    if record.get("log_history"):
        with replacing(folder / "training.png") as path:
            figures.training_curve(record["log_history"], path)
    entry = {
        "step": "final figures",
        "role": "final_evaluation",
        "split": "val_test",
        "part": None,
        "rows": len(rows["label"]),
        "fingerprint": fingerprint,
        "time": time.time(),
    }
    record["ledger"] = [*record["ledger"], *noted, entry]
    record["calibration_of_figures"] = fingerprint_file(run / "calibration.json")  # a card must not tell of another
    write_json(run / "run.json", record)
    write_decision_figures(run)
    write_text(run / "README.md", model_card(run))
    write_report(run)
    return document


def finish_run(trainer: NatixTrainer, decision: DecisionOptions | None = None) -> FinalFigures | None:
    """Calibrate on `val_calib`, test once on `val_test`, and complete the folder of a run.

    Args:
        trainer: whose training is over, by `runs.train_run`. Its model is the merged one afterwards.
        decision: how logits become decisions.

    Returns:
        `metrics.json`; None on all processes but the first.
    """
    run, decision = Path(trainer.args.output_dir), decision or DecisionOptions()
    probe = trainer.probe_predictions()  # while the adapters are still apart from the backbone
    with trainer.times.timed("predict"):
        for name, role, parts in TABLES:
            predicted = []
            for part in parts:
                rows = trainer.splits.rows(role, step="predictions", part=part)
                predicted.append((part, rows, trainer.logits(rows)))
            if trainer.args.should_save:
                write_predictions(run / "predictions" / f"{name}.parquet", predicted, decision.slices)
            predict_challenged(
                run,
                decision,
                name,
                predicted,
                processor=trainer.processing_class,
                logits=trainer.logits_of_photos,
                write=trainer.args.should_save,
            )
        tested = predicted[0][1]  # the last table's rows
    document = None
    if trainer.args.should_save:
        write_record(trainer, decision, run)
        with trainer.times.timed("calibrate"):
            calibration = calibrate_run(run, decision)
        with trainer.times.timed("save"):
            save_model(trainer, run, calibration)
        if decision.robustness:
            with trainer.times.timed("latency"):
                note_latency(run, trainer.plain_model(), trainer.processing_class, tested)
        shown: list[dict[str, Any]] = []
        if trainer.splits.purpose == "run":
            with trainer.times.timed("gallery"):
                # A sharded model works only where all processes take part, and here it is one.
                model = None if trainer.is_fsdp_enabled else trainer.plain_model()
                shown = keep_photos(run, trainer.splits, model, trainer.processing_class)
        with trainer.times.timed("evaluate"):
            document = evaluate_run(run, noted=shown)
        record = read_json(run / "run.json")
        record |= {"time": dict(trainer.times), "speed": trainer.accounting.document()}
        record |= {"status": "finished", "finished": run_folder.now()}
        RunRecord.check(record)
        write_json(run / "run.json", record)
        if probe:
            over_probe(run, probe, read_predictions(run, "val_test"), trainer.positive)
    trainer.accelerator.wait_for_everyone()
    return document


def run_lines(trainer: NatixTrainer, metrics: FinalFigures) -> list[str]:
    """What is printed of a finished run, or of a refit: `metrics` is what finishing returned."""
    run = Path(trainer.args.output_dir)
    record, lines = read_json(run / "run.json"), summary_lines(metrics, read_json(run / "calibration.json"))
    if OverProbe.there(run):
        lines += over_probe_lines(OverProbe.read(run))
    return lines + speed_lines(record.get("speed"), record["time"])


def save_model(trainer: NatixTrainer, run: Path, calibration: dict[str, Any]) -> None:
    """The adapter (LoRA), then the merged model with its code and image processor."""
    from peft import PeftModel

    from natix_hf.modeling.adapters import merge_lora, save_adapter
    from natix_hf.modeling.checkpoints import base_place
    from natix_hf.modeling.exports.adapter_folder import describe_adapter

    model = trainer.accelerator.unwrap_model(trainer.model)
    plain = trainer.plain_model()
    plain.set_calibration(**carried(calibration))
    with staging(run) as stage:
        if isinstance(model, PeftModel):
            for config in model.peft_config.values():
                # A path of this machine; an export names the base otherwise (modeling/exports/adapter_folder.py).
                config.base_model_name_or_path = base_place(config.base_model_name_or_path)
            save_adapter(model, stage / "adapter")
            (stage / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty card; the run's own is beside it
            base, plain = model.base_fingerprint, merge_lora(model)
            if base is not None:
                describe_adapter(plain, trainer.processing_class, base, stage / "adapter")
            trainer.model = trainer.model_wrapped = plain
        plain.save_pretrained(stage)
        trainer.processing_class.save_pretrained(stage)
        for path in stage.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes them readable for their owner alone; the rest of the run is not so


def write_record(trainer: NatixTrainer, decision: DecisionOptions, run: Path, **more: Any) -> None:
    """Complete `run.json` with what training knows, and `more`; a run that is over then has no further writer."""
    args = trainer.args
    record = read_json(run / "run.json")
    record |= {
        "status": "evaluating",
        "method": trainer.method,
        "positive": trainer.positive,
        "decision": dataclasses.asdict(decision),
        "training_shares": trainer.training_shares,
        "seeds": {
            "seed": args.seed,
            "data_seed": trainer.sampler.seed,
            "split_seed": trainer.splits.description["seed"],
        },
        "fingerprints": {
            "splits": trainer.splits.description["fingerprint"],
            **trainer.splits.description["fingerprints"],
        },
        "ledger": trainer.splits.ledger,
        "time": dict(trainer.times),
        "speed": trainer.accounting.document(),
        "prefix": trainer.source.prefix_document(),
        "purpose": trainer.splits.purpose,
        "hold_out": trainer.splits.description.get("hold_out", {}),
        "steps": trainer.state.global_step,
        "max_steps": trainer.planned_steps(),
        "best_step": trainer.state.best_global_step,
        "trainable_parameters": trainer.trainable_parameters,
        "parameters": trainer.all_parameters,
        "log_history": [
            {k: v if v == v and abs(v) != float("inf") else None for k, v in entry.items()}
            for entry in trainer.state.log_history
        ],
        **more,
    }
    RunRecord.check(record)
    write_json(run / "run.json", record)
