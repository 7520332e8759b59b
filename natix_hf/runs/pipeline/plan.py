"""What a pipeline has to do: the steps of a version that are not up to date, why, and how each is done.

`plan` changes nothing. `carry_out` does the steps in the order in which data flows, and looks again before each: a
step that gave what it had given before sets nothing off. Training is a process of its own, started by a launcher.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.options import RecipeValue
from natix_hf.runs.pipeline.made_from import DECISION, PREDICTED, nearest, restore, sibling, take_over
from natix_hf.runs.same_recipe import told
from natix_hf.runs.steps import (
    ASSEMBLE,
    CALIBRATE,
    CHAINS,
    EVALUATE,
    EXPORT,
    PREDICT,
    PROVE,
    REPORT,
    SPLIT,
    TIME,
    TRAIN,
    Step,
    stale,
    stands,
)

STEPS = (*CHAINS["run"], EXPORT, PROVE)
NAMES = tuple(step.name for step in STEPS if step != TIME)  # timing goes with what is shown
EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "stock": ("timm",)}  # what a form of export needs
GROUP = ".training"  # in the folder of all versions: the process group of a training that is under way


class State(NamedTuple):
    """A step, and why it has to be done; None: it is up to date."""

    step: Step
    why: str | None


@dataclass(frozen=True)
class Version:
    """What is asked for, and where it lies.

    Attributes:
        store: the folder of all versions.
        name: of this one's folder.
        recipe: resolved, its keys and values; `text` as YAML.
        form: of the export, `hub_format` of the recipe.
        words: recipe file and keys, as `natix_hf.train` takes them.
    """

    store: Path
    name: str
    recipe: Mapping[str, RecipeValue]
    text: str
    form: str
    words: Sequence[str]

    @property
    def run(self) -> Path:
        return self.store / self.name


def wanted(until: str, recipe: Mapping[str, RecipeValue]) -> list[Step]:
    """The steps up to one, by its name.

    Raises:
        UserError: there is none of that name.
    """
    if until not in NAMES:
        raise UserError(f"--until {until}: one of {', '.join(NAMES)} expected")
    last = [step.name for step in STEPS].index(until)
    return [step for step in STEPS[: last + 1] if step != TIME or recipe.get("robustness")]


def options_for(step: Step, version: Version) -> dict[str, RecipeValue] | None:
    """What a version asks of a step; None: nothing."""
    if step == PREDICT:
        return {key: version.recipe.get(key) for key in PREDICTED}
    if step == CALIBRATE:
        return {key: version.recipe.get(key) for key in DECISION}
    return {"form": version.form} if step == EXPORT else None


def plan(version: Version, steps: Sequence[Step]) -> list[State]:
    """The steps with why they have to be done, as far as that is known before the first of them is."""
    run, found, due = version.run, [], []
    other = None if run.exists() else sibling(version.store, version.name, ASSEMBLE)
    for step in steps:
        if other is not None and step in (SPLIT, TRAIN, PREDICT):
            why = None  # taken over
        elif other is not None and step == ASSEMBLE:
            why = "after calibrate"
        else:
            why = stale(run, step, options_for(step, version))
        if why is None and (before := next((one for one in due if _feeds(one, step)), None)):
            why = f"after {before.name}"
        elif why == "not done yet" and step == SPLIT:
            why = _new(version)
        if why is not None:
            due.append(step)
        found.append(State(step, why))
    return found


def _feeds(earlier: Step, later: Step) -> bool:
    """Whether a step may read what another one writes, by their patterns."""
    wrote, reads = ([pattern.rstrip("?") for pattern in of] for of in (earlier.writes, later.reads))
    return any(fnmatch(one, other) or fnmatch(other, one) for one in wrote for other in reads)


def _new(version: Version) -> str:
    """Why nothing there is can be used."""
    if version.run.exists():
        return "begun and not ended"
    closest = nearest(version.store, version.recipe)
    if closest is None:
        return "first version"
    other, odd = closest
    return f"another version than {other.name}: {told(odd) if odd else 'the photos or the checkpoint changed'}"


class Pipeline:
    """One version and the means to bring it up to date.

    Args:
        version: which.
        launcher: the command that starts `-m natix_hf.train`, such as `accelerate launch` with its options.
        evaluate_again: read `val_test` once more where the figures do not stand any more.
        say: is told what is done.
    """

    def __init__(
        self, version: Version, *, launcher: str, evaluate_again: bool = False, say: Callable[[str], None] = print
    ):
        self.version, self.launcher, self.evaluate_again, self.say = version, launcher, evaluate_again, say
        self._saved: Any = None

    def carry_out(self, steps: Sequence[Step]) -> list[str]:
        """Do what is not up to date; returns the names of the steps that were done.

        Raises:
            UserError: a step failed, cannot be done here, or would read `val_test` once more unasked.
        """
        run, done = self.version.run, set()
        self._check_alone()
        if EXPORT in steps:
            self._check_extras()
        if not run.exists() and (other := sibling(self.version.store, self.version.name, ASSEMBLE)):
            self.say(f"training and predictions are those of {other.name}")
            take_over(other, run, self.version.text)
        for step in steps:
            asked = options_for(step, self.version)
            why = stale(run, step, asked)
            if why is None:
                continue
            trains = step in (SPLIT, TRAIN) or not self._assembled()
            evaluated = StepRecord.path(run, EVALUATE.name).is_file()
            if evaluated and (trains or step in (PREDICT, EVALUATE)) and not self.evaluate_again:
                raise UserError(
                    f"{run}: {step.name}: {why}: val_test is not read once more unasked: bring the file back, or add "
                    "--evaluate_again, and the reading is counted"
                )
            self.say(f"{step.name}: {why}")
            done.add(step)
            if trains:
                self._train(steps)
                done |= {one for one in steps if one in CHAINS["run"]}
            else:
                self._do(step)
        return [step.name for step in steps if step in done]

    def _check_alone(self) -> None:
        """Raise `UserError` where the training of an earlier call has outlived it."""
        noted = self.version.store / GROUP
        if not noted.is_file():
            return
        with noted.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                group = file.read().strip()
                raise UserError(
                    f"{self.version.store}: training that an earlier call began still runs (process group {group}): "
                    f"wait until it has ended, or end it: kill -- -{group}"
                ) from None

    def _check_extras(self) -> None:
        """Raise `UserError` where what the export needs is not installed, before hours of training."""
        form = self.version.form
        if missing := [module for module in EXTRAS.get(form, ()) if find_spec(module) is None]:
            raise UserError(f"hub_format: {form} needs {', '.join(missing)}: pip install 'natix_hf[{form}]'")

    def _assembled(self) -> bool:
        """Whether there is a saved model that the steps behind training can be done from; a sibling may have one."""
        run = self.version.run
        if stands(run, ASSEMBLE):
            return True
        other = sibling(self.version.store, self.version.name, ASSEMBLE)
        if other is None:
            return False
        self.say(f"the model's files are brought back from {other.name}")
        restore(other, run, ASSEMBLE)
        return True

    def _train(self, steps: Sequence[Step]) -> None:
        """Train, and do what follows up to the last of the steps, in a process of its own."""
        run = self.version.run
        last = [step.name for step in steps if step in CHAINS["run"] and step != TIME][-1]
        begun = (run / "run.json").is_file()
        if not begun and (run / "splits.json").is_file():
            raise UserError(f"{run}: run.json is gone: bring it back, or remove the folder to train anew")
        more = ["--resume_from_checkpoint", "true"] if begun else []
        words = [*self.version.words, "--output_dir", str(run), "--until", last, "--push_to_hub", "false", *more]
        command = [*self._launcher(), "-m", "natix_hf.train", *words]
        StepRecord.path(run, REPORT.name).unlink(missing_ok=True)  # a run that counts as finished is not gone on with
        status = self._launched(command)
        if status:
            raise UserError(
                f"{run}: training ended with exit status {status}, what it printed says why; the same command goes on"
            )

    def _launcher(self) -> list[str]:
        try:
            launcher = shlex.split(self.launcher)
        except ValueError as error:
            raise UserError(f"--launcher {self.launcher}: {error}") from None
        if launcher[:2] == ["accelerate", "launch"]:  # that of this environment
            return [sys.executable, "-m", "accelerate.commands.launch", *launcher[2:]]
        if launcher[:1] == ["torchrun"]:
            return [sys.executable, "-m", "torch.distributed.run", *launcher[1:]]
        if launcher[:1] == ["python"]:
            return [sys.executable, *launcher[1:]]
        if not launcher or shutil.which(launcher[0]) is None:
            raise UserError(f"--launcher '{self.launcher}': no such command: accelerate launch is the default")
        return launcher

    def _launched(self, command: Sequence[str]) -> int:
        """The exit status of a command in a process group of its own, which is told to end where this one is.

        It inherits a lock on a file, and so holds it for as long as it lives, whatever becomes of this process.
        """
        with (self.version.store / GROUP).open("w", encoding="utf-8") as noted:
            fcntl.flock(noted, fcntl.LOCK_EX)
            with subprocess.Popen(command, start_new_session=True, pass_fds=(noted.fileno(),)) as process:
                try:
                    print(process.pid, file=noted, flush=True)
                    status = process.wait()
                except KeyboardInterrupt:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
                    raise
                finally:
                    Path(noted.name).unlink()
        return status

    def _do(self, step: Step) -> None:
        from natix_hf.runs.calibrate_run import decision_of
        from natix_hf.runs.pipeline.carry_on import CarryOn

        self._saved = self._saved or CarryOn(self.version.run, decision_of(self.version.recipe))
        if step in (EXPORT, PROVE):
            self._saved.export_or_prove(step, self.version.form, self.say)
        else:
            self._saved.do(step.name)
