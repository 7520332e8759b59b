"""Plans and carries out a pipeline: which steps of a version are out of date, why, and how each is done.

`plan` changes nothing. `carry_out` does the steps in the order of the data flow and checks again before each one: if
a step writes the same files as before, the later steps stay up to date. Training runs in its own process, started by a
launcher.
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
from natix_hf.runs.same_recipe import differences
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
    outputs_intact,
    stale,
)

STEPS = (*CHAINS["run"], EXPORT, PROVE)
NAMES = tuple(step.name for step in STEPS if step != TIME)  # timing is part of the step show
EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "stock": ("timm",)}  # packages that a form of export needs
GROUP = ".training"  # file in the folder of all versions: process group of a running training


class State(NamedTuple):
    """A step, and why it has to be done; None if it is up to date."""

    step: Step
    why: str | None


@dataclass(frozen=True)
class Version:
    """A version: its folder and its recipe.

    Attributes:
        store: folder of all versions.
        name: folder name of this version.
        recipe: keys and values of the resolved recipe; `text` is the same as YAML.
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
    """The steps up to and including the one with this name.

    Raises:
        UserError: no step has this name.
    """
    if until not in NAMES:
        raise UserError(f"--until: expected one of {', '.join(NAMES)}; found {until}")
    last = [step.name for step in STEPS].index(until)
    return [step for step in STEPS[: last + 1] if step != TIME or recipe.get("robustness")]


def options_for(step: Step, version: Version) -> dict[str, RecipeValue] | None:
    """The options of a step in this version; None if it has none."""
    if step == PREDICT:
        return {key: version.recipe.get(key) for key in PREDICTED}
    if step == CALIBRATE:
        return {key: version.recipe.get(key) for key in DECISION}
    return {"form": version.form} if step == EXPORT else None


def plan(version: Version, steps: Sequence[Step]) -> list[State]:
    """Each step with the reason why it has to be done, as far as this is known before any step runs."""
    run, states, due = version.run, [], []
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
        states.append(State(step, why))
    return states


def _feeds(earlier: Step, later: Step) -> bool:
    """Whether the patterns of the files that `earlier` writes and `later` reads overlap."""
    wrote, reads = ([pattern.rstrip("?") for pattern in of] for of in (earlier.writes, later.reads))
    return any(fnmatch(one, other) or fnmatch(other, one) for one in wrote for other in reads)


def _new(version: Version) -> str:
    """Why no existing files can be used."""
    if version.run.exists():
        return "started and not finished"
    closest = nearest(version.store, version.recipe)
    if closest is None:
        return "first version"
    other, odd = closest
    return f"differs from version {other.name}: {differences(odd) if odd else 'the photos or the checkpoint changed'}"


class Pipeline:
    """Brings one version up to date.

    Args:
        version: the version.
        launcher: command that starts `-m natix_hf.train`, such as `accelerate launch` with its options.
        evaluate_again: allow another read of `val_test` if the figures are out of date.
        say: prints what is done.
    """

    def __init__(
        self, version: Version, *, launcher: str, evaluate_again: bool = False, say: Callable[[str], None] = print
    ):
        self.version, self.launcher, self.evaluate_again, self.say = version, launcher, evaluate_again, say
        self._saved: Any = None

    def carry_out(self, steps: Sequence[Step]) -> list[str]:
        """Do the steps that are out of date; returns the names of the steps that were done.

        Raises:
            UserError: a step failed, cannot be done here, or would read `val_test` again without `evaluate_again`.
        """
        run, done = self.version.run, set()
        self._check_alone()
        if EXPORT in steps:
            self._check_extras()
        if not run.exists() and (other := sibling(self.version.store, self.version.name, ASSEMBLE)):
            self.say(f"training and predictions are taken from {other.name}")
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
                    f"{run}: {step.name}: {why}: this would read val_test again: restore the file, or add "
                    "--evaluate_again (the read is counted)"
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
        """Raise `UserError` if the training of an earlier call is still running."""
        noted = self.version.store / GROUP
        if not noted.is_file():
            return
        with noted.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                group = file.read().strip()
                raise UserError(
                    f"{self.version.store}: training from an earlier call is still running (process group {group}): "
                    f"wait until it ends, or stop it with kill -- -{group}"
                ) from None

    def _check_extras(self) -> None:
        """Raise `UserError` before training if packages for the export are missing."""
        form = self.version.form
        if missing := [module for module in EXTRAS.get(form, ()) if find_spec(module) is None]:
            raise UserError(f"hub_format: {form} needs {', '.join(missing)}: pip install 'natix_hf[{form}]'")

    def _assembled(self) -> bool:
        """Whether there is a saved model for the steps after training; it may be restored from a sibling."""
        run = self.version.run
        if outputs_intact(run, ASSEMBLE):
            return True
        other = sibling(self.version.store, self.version.name, ASSEMBLE)
        if other is None:
            return False
        self.say(f"the files of the model are restored from {other.name}")
        restore(other, run, ASSEMBLE)
        return True

    def _train(self, steps: Sequence[Step]) -> None:
        """Train, and do the following steps up to the last one asked for, in a separate process."""
        run = self.version.run
        last = [step.name for step in steps if step in CHAINS["run"] and step != TIME][-1]
        begun = (run / "run.json").is_file()
        if not begun and (run / "splits.json").is_file():
            raise UserError(f"{run}: run.json is missing: restore it, or remove the folder to train again")
        more = ["--resume_from_checkpoint", "true"] if begun else []
        words = [*self.version.words, "--output_dir", str(run), "--until", last, "--push_to_hub", "false", *more]
        command = [*self._launcher(), "-m", "natix_hf.train", *words]
        StepRecord.path(run, REPORT.name).unlink(missing_ok=True)  # a finished run cannot be resumed
        status = self._launched(command)
        if status:
            raise UserError(
                f"{run}: training failed with exit status {status}, see its output above; the same command resumes it"
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
            raise UserError(f"--launcher '{self.launcher}': command not found: the default is accelerate launch")
        return launcher

    def _launched(self, command: Sequence[str]) -> int:
        """Run a command in its own process group and return its exit status. Ctrl-C terminates the group.

        The command inherits a file lock, so it holds the lock while it runs, even if this process dies.
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
