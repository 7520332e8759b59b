"""The commands one after the other on a small job, as a user runs them, and everything that they leave behind."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from warm import REPOSITORY, Result, plain_environment

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.selective import Selective
from natix_hf.documents.split_certificate import SplitCertificate

pytestmark = pytest.mark.slow

COLOURS = {"None": (100, 120, 110), "Roadwork": (128, 112, 102)}
LEFT_BEHIND = """
config.json model.safetensors configuration_natix_dinov3.py modeling_natix_dinov3.py preprocessor_config.json README.md
recipe.yaml splits.json calibration.json metrics.json run.json speed.json ledger.jsonl steps/split.json
steps/train.json steps/predict.json steps/calibrate.json steps/assemble.json steps/show.json steps/evaluate.json
adapter/adapter_config.json adapter/adapter_model.safetensors adapter/config.json adapter/preprocessor_config.json
adapter/adapter_natix_dinov3.py adapter/configuration_natix_dinov3.py adapter/modeling_natix_dinov3.py
predictions/val_select.parquet predictions/val_calib.parquet predictions/val_test.parquet figures/training.png
figures/reliability.png figures/confusion.png figures/reward.png reward.json slices.json
selective.json figures/risk_coverage.png figures/ranking.png figures/threshold.png gallery.json report.html
adapter_natix_dinov3.py steps/report.json photo_cost.json
"""

# A client: prints label and score of every class for each photo, `[[{"label", "score"}, ...], ...]`.
CLIENT = """
import json, sys
model, *photos = sys.argv[1:]
if {with_package}:
    import natix_hf
else:
    sys.modules["natix_hf"] = None
from transformers import pipeline
classify = pipeline("image-classification", model=model, trust_remote_code=not {with_package})
print(json.dumps([classify(photo) for photo in photos]))
"""


def homes(home: Path) -> dict[str, str]:
    """An environment whose stores and caches lie in `home`."""
    return {**plain_environment(), "NATIX_HF_HOME": str(home / "natix"), "HF_HOME": str(home / "hf")}


def execute(*words: object, home: Path, **environment: str) -> str:
    """What Python prints that runs with these words."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=home,
        env={**homes(home), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_backbone: Path, make_photos, warm) -> SimpleNamespace:
    """A run with LoRA on photos beside a CSV with cameras, what training printed, and how to type another command."""
    home = tmp_path_factory.mktemp("user")
    photos = home / "street photos"
    make_photos(home / "made", COLOURS, 60)
    (photos / "images").mkdir(parents=True)
    lines = ["image_path,label,camera"]
    for path in sorted((home / "made").rglob("*.jpg")):
        name = f"{path.parent.name}-{path.name}"
        path.rename(photos / "images" / name)
        camera = "" if path.stem == "000" else f"camera {int(path.stem) // 3} {path.parent.name}"
        lines.append(f"images/{name},{path.parent.name},{camera}")
    (photos / "labels.csv").write_text("\n".join(lines) + "\n")
    recipe = home / "street.yaml"
    recipe.write_text(f"""\
model_name_or_path: {tiny_backbone}
dataset_name: {photos}
group_column: camera
image_size: 32
output_dir: {home / "runs" / "street"}
num_train_epochs: 12
per_device_train_batch_size: 8
dataloader_num_workers: 0
learning_rate: 1e-2
lora_r: 4
use_cpu: true
disable_tqdm: true
""")

    def typed(verb: str, *words: object) -> Result:
        """A command of this user that ends well, run by a process that has done its imports."""
        done = warm.run(f"natix_hf.{verb}", words, homes(home), home)
        assert done.status == 0, done.out + done.err
        return done

    said = typed("train", recipe).out
    return SimpleNamespace(home=home, photos=photos, run=home / "runs" / "street", said=said, type=typed)


@pytest.fixture
def copy(job, tmp_path: Path) -> Path:
    """The run in a place where a test may change it."""
    return shutil.copytree(job.run, tmp_path / "street")


def calibrated(run: Path, split: str) -> dict[str, np.ndarray]:
    """Id -> probabilities, from the run's files alone."""
    import pyarrow.parquet as pq
    from scipy.special import softmax

    calibration = read(run / "calibration.json")
    rows = pq.read_table(run / "predictions" / f"{split}.parquet").to_pydict()
    logits = np.array(rows["logits"]) / calibration["temperature"] + calibration["logit_bias"]
    return dict(zip(rows["id"], softmax(logits, axis=1), strict=True))


def test_a_run_leaves_behind_all_that_it_should_and_nothing_half_written(job):
    files = {path.relative_to(job.run).as_posix() for path in job.run.rglob("*") if path.is_file()}
    assert set(LEFT_BEHIND.split()) <= files
    rest = {name for name in files if not name.startswith(("checkpoints/", "gallery/"))} - set(LEFT_BEHIND.split())
    assert not rest
    assert all((job.run / name).stat().st_mode & 0o044 for name in LEFT_BEHIND.split())
    assert "finished" in job.said
    assert "val_test" in job.said


@pytest.mark.parametrize("kind", [SplitCertificate, CalibrationFile, FinalFigures, RunRecord, Selective, Gallery])
def test_the_documents_of_a_run_are_read_by_their_classes(job, kind):
    kind.read(job.run)


def test_labels_groups_and_roles_are_what_the_user_meant(job):
    import pyarrow.parquet as pq

    splits, run = read(job.run / "splits.json"), read(job.run / "run.json")
    assert splits["label_names"] == ["None", "Roadwork"]
    assert read(job.run / "config.json")["id2label"] == {"0": "None", "1": "Roadwork"}
    labels = {row["image_path"]: row for row in table(job.photos / "labels.csv")}
    cameras = {s: {labels[i]["camera"] for i in ids} - {""} for s, ids in splits["ids"].items()}
    assert sum(map(len, cameras.values())) == len(set().union(*cameras.values())) == 40
    rows = pq.read_table(job.run / "predictions" / "val_test.parquet").to_pydict()
    assert [splits["label_names"][label] for label in rows["label"]] == [labels[i]["label"] for i in rows["id"]]
    assert sorted(rows["id"]) == sorted(splits["ids"]["val_test"])
    seen = {(entry.split, entry.role) for entry in read_ledger(job.run)}
    assert seen == {
        ("train", "training"),
        ("val_select", "selection"),
        ("val_calib", "policy"),
        ("val_test", "final_evaluation"),
    }
    assert run["status"] == "finished"


def test_no_path_of_this_machine_is_left_in_what_is_published(job, tiny_backbone):
    for path in job.run.rglob("*"):
        # The run's own adapter names its base by its path, so that it loads here; an export of it names a Hub id.
        here = path.name == "recipe.yaml" or path.parent.name == "adapter" or "checkpoints" in path.parts
        if path.is_file() and not here:
            content = path.read_bytes()
            for place in (job.home, tiny_backbone, REPOSITORY):
                assert str(place).encode() not in content, path


@pytest.mark.parametrize("with_package", [True, False])
def test_a_client_s_pipeline_gives_the_probabilities_of_the_run(job, tmp_path, warm, with_package):
    expected = calibrated(job.run, "val_test")
    photos = [job.photos / name for name in expected]
    script = tmp_path / "client.py"
    script.write_text(CLIENT.format(with_package=with_package))
    if with_package:
        said = warm.run(script, (job.run, *photos), homes(tmp_path), tmp_path).out
    else:
        said = execute(script, job.run, *photos, home=tmp_path, HF_MODULES_CACHE=str(tmp_path / "m"))
    for (name, probabilities), answer in zip(expected.items(), json.loads(said), strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert set(scores) == {"None", "Roadwork"}
        assert np.allclose([scores["None"], scores["Roadwork"]], probabilities, atol=1e-5), name


def test_predict_says_the_same_as_the_run(job, tmp_path):
    job.type("predict", job.run, job.photos, "--output", tmp_path / "out.csv")
    rows = {Path(row["file"]).name: row for row in table(tmp_path / "out.csv")}
    assert len(rows) == 120
    for split in ("val_select", "val_calib", "val_test"):
        for name, probabilities in calibrated(job.run, split).items():
            row = rows[Path(name).name]
            assert np.allclose([float(row["p_None"]), float(row["p_Roadwork"])], probabilities, atol=1e-5)
            assert row["label"] == ("None", "Roadwork")[int(probabilities.argmax())]


def test_predict_takes_folder_glob_parquet_and_saved_data_set_and_lists_what_cannot_be_read(job, tmp_path):
    from datasets import Dataset
    from datasets import Image as Photo

    photos = tmp_path / "new"
    (photos / "deep").mkdir(parents=True)
    for i, path in enumerate(sorted((job.photos / "images").iterdir())[:4]):
        shutil.copy(path, photos / ("deep" if i % 2 else ".") / f"{i}.jpg")
    Image.new("L", (1, 1), 9).save(photos / "dot.png")
    good = sorted(str(path) for path in photos.rglob("*") if path.is_file())
    (photos / "cut.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no photo")

    def predict(source, output, *words) -> Result:
        return job.type("predict", job.run, source, "--output", tmp_path / output, *words)

    done = predict(photos, "folder.csv")
    rows = {row["file"]: row for row in table(tmp_path / "folder.csv")}
    assert set(rows) == {*good, str(photos / "cut.jpg"), str(photos / "empty.png")}
    for name, row in rows.items():
        assert bool(row["error"]) is (name not in good)
        assert bool(row["label"]) is bool(row["p_None"]) is (name in good)
    assert "5 photos" in done.out
    assert "2 photos could not be read" in done.err
    assert str(photos / "empty.png") in done.err

    predict(str(photos / "**" / "*.jpg"), "glob.jsonl", "--batch_size", "1", "--num_workers", "0")
    lines = [json.loads(line) for line in (tmp_path / "glob.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines} == {name for name in rows if name.endswith(".jpg")}
    for line in lines:
        if "error" in line:
            assert line == {"file": str(photos / "cut.jpg"), "error": rows[line["file"]]["error"]}
        else:
            assert line["probabilities"]["None"] == pytest.approx(float(rows[line["file"]]["p_None"]), abs=2e-6)

    records = [{"bytes": Path(name).read_bytes(), "path": None} for name in good]
    data = Dataset.from_dict({"photo": records, "id": list(range(10, 15))}).cast_column("photo", Photo())
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "data.parquet")
    for source, output in ((tmp_path / "saved", "saved.csv"), (tmp_path / "data.parquet", "parquet.csv")):
        predict(source, output, "--image_column_name", "photo")
        found = table(tmp_path / output)
        assert [row["file"] for row in found] == ["10", "11", "12", "13", "14"]
        assert [row["p_None"] for row in found] == [rows[name]["p_None"] for name in good]


def test_calibrating_and_evaluating_again_give_the_same_documents(job, copy):
    from natix_hf.inference.classify import load_classifier

    before = {name: read(copy / f"{name}.json") for name in ("calibration", "metrics")}
    weights = (copy / "model.safetensors").read_bytes()
    job.type("calibrate", copy)
    assert read(copy / "calibration.json") == before["calibration"]
    assert read(copy / "config.json") == read(job.run / "config.json")
    assert (copy / "model.safetensors").read_bytes() == weights
    said = job.type("evaluate", copy).out
    assert read(copy / "metrics.json") == before["metrics"]
    assert "first evaluation on these test photos on this machine" in said

    # Another calibration is another model, and the rows have been read for the first one.
    said = job.type("calibrate", copy, "--target_prior", "0.9", "--fold_threshold").out
    assert "-> 90.0%" in said
    assert "are too few to choose another" in said
    again = read(copy / "calibration.json")
    model, _ = load_classifier(str(copy))
    assert model.head.logit_bias.tolist() == pytest.approx(again["prior_bias"])
    assert model.head.logit_bias[1] > model.head.logit_bias[0]
    said = job.type("evaluate", copy).out
    assert "for the final figures of other models once before" in said
    assert read(copy / "metrics.json")["times_read_before"] == 1
    said = job.type("calibrate", copy, "--calibrator", "none").out
    assert "calibration: none requested" in said
    assert read(copy / "calibration.json")["options"]["target_prior"] is None  # what is not given is as trained
    assert (copy / "adapter" / "adapter_model.safetensors").stat().st_mode & 0o044


def test_the_adapter_loads_onto_its_base_with_the_same_logits(job, tiny_backbone):
    import torch
    from transformers import AutoModelForImageClassification

    from natix_hf.modeling.adapters import load_adapter
    from natix_hf.modeling.checkpoints import build_model

    merged = AutoModelForImageClassification.from_pretrained(job.run)
    model = load_adapter(build_model(str(tiny_backbone), ["None", "Roadwork"]), job.run / "adapter").eval()
    head = model.base_model.model.head.modules_to_save["default"]
    for name, tensor in merged.head.state_dict().items():
        assert torch.equal(head.state_dict()[name], tensor), name
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(model(pixel_values=pixels).logits, merged(pixel_values=pixels).logits, atol=1e-5)


def test_accelerate_launches_the_job_and_the_resolved_recipe_repeats_the_run(job, tmp_path):
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "natix_hf.train")
    execute(*launch, job.run / "recipe.yaml", "--output_dir", tmp_path / "again", home=job.home)
    first, second = read(job.run / "run.json"), read(tmp_path / "again" / "run.json")
    assert second["status"] == "finished"
    assert second["fingerprints"] == first["fingerprints"]
    for split in ("val_select", "val_calib", "val_test"):
        one, two = calibrated(job.run, split), calibrated(tmp_path / "again", split)
        assert one.keys() == two.keys()
        assert all(np.allclose(one[name], two[name], atol=1e-6) for name in one)
