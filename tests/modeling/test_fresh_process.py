"""A saved model in a process of its own: with the package, and with `trust_remote_code` where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from natix_hf.modeling.checkpoints import build_model, load_processor
from natix_hf.photos.geometry import Squash

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSIFY = """
import json, sys
from PIL import Image
{imports}
classify = pipeline("image-classification", model=sys.argv[1], {options})
scores = {{row["label"]: row["score"] for row in classify(sys.argv[2])}}
photo = classify.image_processor(Image.open(sys.argv[2]).convert("RGB"), return_tensors="pt")
logits = classify.model(**photo).logits[0].tolist()
print(json.dumps({{"module": type(classify.model).__module__, "scores": scores, "logits": logits}}))
"""


@pytest.fixture(scope="module")
def run_and_photo(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A calibrated model with its processor, and a photo."""
    folder = tmp_path_factory.mktemp("fresh")
    model = build_model(str(tiny_backbone), ["None", "Roadwork"], pooling="cls_mean", head="residual")
    torch.nn.init.normal_(model.head.hidden.down.weight)
    model.set_calibration(1.5, [0.25, -0.25])
    model.save_pretrained(folder / "run")
    load_processor(str(tiny_backbone), Squash(32)).save_pretrained(folder / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "run", folder / "photo.png"


def expected_logits(run: Path, photo: Path) -> list[float]:
    """Of this process."""
    import natix_hf  # noqa: F401
    from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

    pixels = AutoImageProcessor.from_pretrained(run)(Image.open(photo).convert("RGB"), return_tensors="pt")
    return NatixDinov3ForImageClassification.from_pretrained(run)(**pixels).logits[0].tolist()


def answer(script: str, run: Path, photo: Path, folder: Path, *flags: str) -> dict:
    """The last line that the script prints, as JSON."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules")}
    command = [sys.executable, *flags, "-c", script, str(run), str(photo)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("order", ["natix_hf first", "natix_hf last"])
def test_pipeline_works_after_import_natix_hf_in_either_order(order, run_and_photo, tmp_path):
    imports = ["from transformers import pipeline", f"sys.path.insert(0, {str(REPOSITORY)!r}); import natix_hf"]
    if order == "natix_hf first":
        imports.reverse()
    found = answer(CLASSIFY.format(imports="\n".join(imports), options=""), *run_and_photo, tmp_path)
    assert found["module"] == "natix_hf.modeling.modeling_natix_dinov3"
    assert found["logits"] == expected_logits(*run_and_photo)
    probabilities = torch.tensor(found["logits"]).softmax(-1).tolist()
    assert [found["scores"][name] for name in ("None", "Roadwork")] == pytest.approx(probabilities, abs=1e-6)


@pytest.mark.slow
def test_pipeline_works_with_trust_remote_code_where_the_package_is_missing(run_and_photo, tmp_path):
    imports = "sys.modules['natix_hf'] = None\nfrom transformers import pipeline"
    found = answer(CLASSIFY.format(imports=imports, options="trust_remote_code=True"), *run_and_photo, tmp_path, "-I")
    assert found["module"].startswith("transformers_modules.")
    assert found["logits"] == expected_logits(*run_and_photo)


def test_importing_the_package_imports_neither_torch_nor_transformers():
    script = "import sys, natix_hf; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode == 0
