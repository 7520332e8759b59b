"""What `pip install .` brings works in another folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package's wheel, built as pip builds it, by the hatchling that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(REPOSITORY)], check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter whose environment holds the wheel and, of this environment, all that is not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # The .pth file of an editable installation is not read in a folder that is itself named in one.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def _typed(python: Path, folder: Path, *words: str | Path) -> str:
    """What a command prints in `folder`."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**plain, "HF_HUB_OFFLINE": "1", "NATIX_HF_HOME": str(folder / "home")}
    done = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_recipes_cards_and_every_file_of_the_package(wheel):
    expected = {
        path.relative_to(root).as_posix()
        for root, top in ((REPOSITORY, "natix_hf"), (REPOSITORY, "recipes"), (REPOSITORY, "hub_cards"))
        for path in (root / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected = {name if name.startswith("natix_hf/") else f"natix_hf/{name}" for name in expected}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    for some in ("recipes/demo.yaml", "hub_cards/", "assets/demo-backbone/model.safetensors", "report/templates/"):
        assert any(name.startswith(f"natix_hf/{some}") for name in held), some


def test_the_installed_package_does_not_see_the_checkout(python, tmp_path):
    path = _typed(python, tmp_path, "-c", "import sys, natix_hf; print(natix_hf.__file__, *sys.path, sep='\\n')")
    file, *folders = path.splitlines()
    assert Path(file).is_relative_to(python.parents[1])
    assert str(REPOSITORY) not in folders
    assert "--learning_rate" in _typed(python, tmp_path, "-m", "natix_hf.train", "--help")


def test_a_run_and_the_last_step_of_the_demo_with_the_installed_package(python, tmp_path, tiny_backbone, photo_folder):
    words = ["--model_name_or_path", tiny_backbone, "--dataset_name", photo_folder, "--image_size", "32"]
    words += ["--output_dir", "run", "--num_train_epochs", "1", "--dataloader_num_workers", "0", "--use_cpu", "true"]
    told = _typed(python, tmp_path, "-m", "natix_hf.train", "recipes/demo.yaml", "--dataset_config", "null", *words)
    assert "run: finished" in told
    assert "val_test" in (tmp_path / "run" / "README.md").read_text()
    told = _typed(python, tmp_path, "-m", "natix_hf.demo", "run")
    assert told.count("new street") == 6
