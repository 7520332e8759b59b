"""From the Hub and back: checkpoint and photos by their ids, the run published in two forms, a stranger's pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_state import WRITE
from warm import REPOSITORY, Warm

from natix_hf.files import read_json

pytestmark = pytest.mark.slow

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

STRANGER = """
import json, sys
sys.modules["natix_hf"] = None
from transformers import pipeline
models = [
    pipeline("image-classification", model="tester/stock"),
    pipeline("image-classification", model="tester/full", trust_remote_code=True),
]
print(json.dumps([[classify(photo) for photo in sys.argv[1:]] for classify in models]))
"""


@pytest.fixture
def typed(loopback_hub, tmp_path) -> Iterator[Callable[..., str]]:
    """A function that runs a verb or a script on the Hub of this machine and gives what it printed."""
    home = loopback_hub.environment(tmp_path / "home")
    environment = home | {"NATIX_HF_HOME": str(tmp_path / "natix"), "PYTHONPATH": str(REPOSITORY)}
    with Warm(**home) as warm:

        def run(start: str | Path, *words: object) -> str:
            done = warm.run(start, words, environment, tmp_path)
            assert done.status == 0, done.out + done.err
            return done.out

        yield run


def test_a_run_on_hub_ids_is_published_and_used_by_a_stranger(
    typed, loopback_hub, tiny_backbone, photo_folder, tmp_path
):
    (tmp_path / "push.py").write_text(PUSH)
    typed(tmp_path / "push.py", photo_folder, tiny_backbone)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: tester/backbone\ndataset_name: tester/photos\nlabel_names: [None, Roadwork]\n"
        "image_size: 32\nnum_train_epochs: 1\nuse_cpu: true\ndisable_tqdm: true\n"
        "dataloader_num_workers: 0\n"
        "push_to_hub: true\nhub_model_id: tester/full\nhub_format: merged\nhub_private_repo: true\n"
        f"model_version: 0.1.0\noutput_dir: {tmp_path / 'run'}\n"
    )
    said = typed("natix_hf.train", recipe)
    assert "photos: tester/photos: 2 classes" in said
    run = tmp_path / "run"
    assert (
        json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "tester/backbone"
    )
    card = (run / "README.md").read_text()
    assert "base_model: tester/backbone" in card
    assert "- tester/photos" in card

    held = loopback_hub.model("tester/full")
    assert f"published: {loopback_hub.address}/tester/full, version 0.1.0" in said
    assert said.count("every decision at 0.5 is the same as the run's") == 2
    assert held.messages == ["initial commit", "Version 0.1.0"]  # the Trainer uploaded nothing
    assert held.tags == {"0.1.0": held.head}
    assert held.private
    assert "tester/photos" in held.files["README.md"].decode()
    assert read_json(run / "splits.json")["fingerprint"] in held.files["README.md"].decode()

    said = typed("natix_hf.publish", run, "tester/stock")
    assert said.splitlines()[-1] == f"{loopback_hub.address}/tester/stock"
    assert WRITE not in said
    for name in ("tester/full", "tester/stock"):
        pushed = loopback_hub.model(name).files
        assert {"config.json", "model.safetensors", "README.md", "proof.json", "publication.json"} <= set(pushed)
        assert not [
            path for path in pushed if "checkpoint" in path or path.endswith((".bin", ".pt", ".parquet", ".jpg"))
        ]
        assert not [path for path, content in pushed.items() if str(tmp_path).encode() in content]

    photos = sorted(photo_folder.rglob("*.jpg"))[::12]
    environment = loopback_hub.environment(tmp_path / "stranger")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, photos)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stock, full = json.loads(done.stdout)
    typed("natix_hf.predict", "tester/full", photo_folder, "--output", tmp_path / "out.jsonl")
    expected = {row["file"]: row["probabilities"] for row in map(json.loads, (tmp_path / "out.jsonl").open())}
    for answers in (stock, full):
        for photo, answer in zip(photos, answers, strict=True):
            assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(
                expected[str(photo)], abs=1e-5
            )
