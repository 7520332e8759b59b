"""From the Hub and back: checkpoint and photos by their ids, the run pushed, a stranger's pipeline; on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]

PUSH = """
import sys
from datasets import Dataset, Image
from huggingface_hub import HfApi
from pathlib import Path
photos, model = map(Path, sys.argv[1:])
paths = sorted(photos.rglob("*.jpg"))
rows = {"image": [str(p) for p in paths], "label": [int(p.parent.name == "Roadwork") for p in paths]}
Dataset.from_dict(rows).cast_column("image", Image()).push_to_hub("tester/photos")
HfApi().create_repo("tester/backbone")
HfApi().upload_folder(repo_id="tester/backbone", folder_path=model)
"""

PUBLISH = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("tester/x")
HfApi().upload_folder(repo_id="tester/x", folder_path=sys.argv[1], ignore_patterns=["checkpoints/*"])
"""

STRANGER = """
import json, sys
sys.modules["natix_hf"] = None
from transformers import pipeline
classify = pipeline("image-classification", model="tester/x", trust_remote_code=True)
print(json.dumps([classify(photo) for photo in sys.argv[1:]]))
"""


def test_a_run_on_hub_ids_can_be_pushed_and_used_by_a_stranger(loopback_hub, tiny_backbone, photo_folder, tmp_path):
    def execute(*words: object, home: str) -> str:
        own = {"NATIX_HF_HOME": str(tmp_path / "natix"), "PYTHONPATH": str(REPOSITORY)}
        environment = loopback_hub.environment(tmp_path / home) | own
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    execute("-c", PUSH, photo_folder, tiny_backbone, home="owner")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: tester/backbone\ndataset_name: tester/photos\nlabel_names: [None, Roadwork]\n"
        "image_size: 32\noutput_dir: run\nnum_train_epochs: 1\nuse_cpu: true\ndisable_tqdm: true\n"
        "dataloader_num_workers: 0\n"
    )
    said = execute("-m", "natix_hf.train", recipe, home="user")
    assert "photos: tester/photos: 2 classes" in said
    run = tmp_path / "run"
    assert (
        json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "tester/backbone"
    )
    card = (run / "README.md").read_text()
    assert "base_model: tester/backbone" in card
    assert "- tester/photos" in card

    execute("-c", PUBLISH, run, home="user")
    pushed = set(loopback_hub.model("tester/x").files)
    assert {"config.json", "model.safetensors", "modeling_natix_dinov3.py", "README.md", "run.json"} <= pushed
    assert not any(name.startswith("checkpoints") or name.endswith((".bin", ".pt", ".pth")) for name in pushed)

    photos = sorted(photo_folder.rglob("*.jpg"))[::12]
    answers = json.loads(execute("-c", STRANGER, *photos, home="stranger"))
    execute("-m", "natix_hf.predict", "tester/x", photo_folder, "--output", "out.jsonl", home="other")
    expected = {row["file"]: row["probabilities"] for row in map(json.loads, (tmp_path / "out.jsonl").open())}
    for photo, answer in zip(photos, answers, strict=True):
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected[str(photo)], abs=1e-5)
