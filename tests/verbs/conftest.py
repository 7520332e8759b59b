"""A user's desk: photos, a checkpoint, a recipe, and the commands that are typed there as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
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


class Result(NamedTuple):
    status: int
    out: str
    err: str


def plain_environment(offline: bool = True) -> dict[str, str]:
    """The environment without what the Hub's client reads, so that no login or mirror of this machine is used."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    plain |= {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error::RuntimeWarning"}  # as pyproject.toml has it
    return {**plain, **({"HF_HUB_OFFLINE": "1"} if offline else {})}


class Warm:
    """The other end of `warm.py`."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            # datasets reads its variable when it is imported, which here is before a verb could set it.
            env={**plain_environment(), "HF_HOME": str(home), "DATASETS_VERBOSITY": "critical"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(
        self, verb: str, words: tuple[str, ...], environment: dict[str, str], folder: Path, prelude: str = ""
    ) -> Result:
        """One command, with Python that runs before it; its output goes through files in `folder`."""
        out, err = folder / ".stdout", folder / ".stderr"
        request = {
            "verb": verb,
            "words": words,
            "environment": environment,
            "folder": str(REPOSITORY),
            "prelude": prelude,
        }
        print(json.dumps({**request, "out": str(out), "err": str(err)}), file=self.process.stdin, flush=True)
        status = int(self.process.stdout.readline())
        return Result(status, out.read_text(), err.read_text())


class Desk:
    """A user's folder with photos, a checkpoint and a recipe, and the commands that are typed in it."""

    def __init__(self, folder: Path, model: Path, photos: Path, warm: Warm) -> None:
        self.folder, self.output, self.warm = folder, folder / "run", warm
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE.format(output=self.output, model=model, photos=photos))

    def type(self, verb: str, *words: object, prelude: str | None = None, **environment: str) -> Result:
        """Run `python -m natix_hf.VERB words`; `prelude` is Python that runs before it in the same process.

        Without a prelude or an environment of its own, the command is a child of a process that has done its imports.
        """
        words = tuple(map(str, words))
        homes = {"NATIX_HF_HOME": str(self.folder / "home"), "HF_HOME": str(self.folder / "hf")}
        if prelude is None and not environment:
            return self.warm.run(verb, words, {**plain_environment(), **homes}, self.folder)
        start = ["-m", f"natix_hf.{verb}"]
        if prelude is not None:
            script = self.folder / "prelude.py"
            run = f"runpy.run_module('natix_hf.{verb}', run_name='__main__')"
            script.write_text(f"{prelude}\nimport runpy\n{run}\n")
            start = [str(script)]
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=REPOSITORY,
            env={**plain_environment("HF_ENDPOINT" not in environment), **homes, **environment},
            capture_output=True,
            text=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def refusal(self, verb: str, *words: object, **kwargs: str) -> str:
        """What the command is refused with: exit status 2 and one line."""
        status, out, err = self.type(verb, *words, **kwargs)
        assert status == 2, out + err
        assert "Traceback" not in out + err
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    def train(self, *words: object, **kwargs: str) -> str:
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


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("hub"))
    yield process
    process.process.stdin.close()
    process.process.wait()


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
