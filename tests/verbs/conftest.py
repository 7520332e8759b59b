"""A user's desk: photos, a checkpoint, a recipe, and the commands that are typed there as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from warm import REPOSITORY, Result, Warm, plain_environment

HOOKS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pipeline_hooks import *; "
COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}
RECIPE = """\
image_size: 32
num_train_epochs: 1
per_device_train_batch_size: 8
dataloader_num_workers: 0
use_cpu: true
disable_tqdm: true
lora_r: 4
output_dir: {output}
model_name_or_path: {model}
dataset_name: {photos}
"""


class Desk:
    """A user's folder with photos, a checkpoint and a recipe, and the commands that are typed in it."""

    def __init__(self, folder: Path, model: Path, photos: Path, warm: Warm) -> None:
        self.folder, self.output, self.warm = folder, folder / "run", warm
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE.format(output=self.output, model=model, photos=photos))

    def type(
        self, verb: str, *words: object, prelude: str = "", fresh: bool = False, processes: int = 1, **environment: str
    ) -> Result:
        """Run `python -m natix_hf.VERB words` as a child of a process that has done its imports.

        Args:
            verb, words: the command line.
            prelude: Python that runs before it in the same process.
            fresh: a process of its own, for what libraries read while they are imported, such as where the Hub is.
            processes: more than one train together.
            environment: more of it.
        """
        homes = {"NATIX_HF_HOME": str(self.folder / "home"), "HF_HOME": str(self.folder / "hf")}
        environment = {**plain_environment("HF_ENDPOINT" not in environment), **homes, **environment}
        if not fresh:
            return self.warm.run(f"natix_hf.{verb}", words, environment, self.folder, prelude, processes)
        script = self.folder / "prelude.py"
        script.write_text(f"{prelude}\nimport runpy\nrunpy.run_module('natix_hf.{verb}', run_name='__main__')\n")
        start = [str(script)] if prelude else ["-m", f"natix_hf.{verb}"]
        done = subprocess.run(
            [sys.executable, *start, *map(str, words)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def refusal(self, verb: str, *words: object, **kwargs: str | bool) -> str:
        """What the command is refused with: exit status 2 and one line."""
        status, out, err = self.type(verb, *words, **kwargs)
        assert status == 2, out + err
        assert "Traceback" not in out + err
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    def train(self, *words: object, **kwargs: str | bool) -> str:
        """What training is refused with; the output folder is as it was."""
        before = listing(self.output)
        line = self.refusal("train", self.recipe, *words, **kwargs)
        assert listing(self.output) == before
        return line


def listing(folder: Path) -> dict[str, bytes] | None:
    """Every file below a folder with its content; None where there is no such folder."""
    if not folder.exists():
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path, tiny_backbone: Path, photo_folder: Path, warm: Warm) -> Desk:
    return Desk(tmp_path, tiny_backbone, photo_folder, warm)


@pytest.fixture(scope="module")
def module_desk(tmp_path_factory, tiny_backbone: Path, make_photos, warm: Warm) -> Desk:
    """A desk that the tests of a file share."""
    folder = tmp_path_factory.mktemp("desk")
    return Desk(folder, tiny_backbone, make_photos(folder / "photos", COLOURS, 24), warm)


@pytest.fixture(scope="session")
def trained_desk(tmp_path_factory, tiny_backbone: Path, make_photos, warm: Warm) -> Desk:
    """A desk with one finished run, of which every file of tests makes use."""
    folder = tmp_path_factory.mktemp("trained-desk")
    desk = Desk(folder, tiny_backbone, make_photos(folder / "photos", COLOURS, 24), warm)
    result = desk.type("train", desk.recipe, "--method", "probe")
    assert result.status == 0, result.err
    return desk


@pytest.fixture(scope="session")
def finished(trained_desk: Desk) -> Path:
    """The folder of a finished run on two classes; tests copy what they change."""
    return trained_desk.output
