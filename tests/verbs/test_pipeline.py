"""From photos to a proved model by one command: which steps it does, why, and what no fault can take from it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from natix_hf.documents.ledger import read_ledger
from natix_hf.runs.lease import held
from natix_hf.runs.pipeline.plan import GROUP
from tests.verbs.conftest import HOOKS

ALL = ["split", "train", "predict", "calibrate", "assemble", "show", "evaluate", "report", "export", "prove"]
BEHIND = ALL[3:]  # what other decisions lead to
COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}


class Piped:
    """The recipe of a desk and a folder of versions, and the pipelines that are typed there."""

    def __init__(self, desk, store: Path):
        self.desk, self.store = desk, store

    def type(self, *words: object, prelude: str = ""):
        """The exit status, stdout and stderr of a pipeline whose training is a fork of it."""
        environment = {"NATIX_HF_HOME": str(self.desk.folder / "home"), "HF_HUB_OFFLINE": "1"}
        environment |= {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
        given = (str(self.desk.recipe), *map(str, words), "--output_dir", str(self.store))
        prelude = HOOKS + (prelude or "train_in_a_fork()")
        return self.desk.warm.run("natix_hf.pipeline", given, environment, self.store.parent, prelude)

    def done(self, *words: object, prelude: str = "") -> list[str]:
        """The steps that a pipeline did."""
        status, out, err = self.type(*words, prelude=prelude)
        assert status == 0, out + err
        said = re.search(r": (.*) done, all up to date to \w+\n", out)
        return said[1].split(", ") if said else []

    def why(self, *words: object) -> dict[str, str]:
        """Step -> why a pipeline would do it."""
        status, out, err = self.type("--dry_run", *words)
        assert status == 0, err
        found = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
        return {step: why for step, why in found.items() if why != "up to date"}

    def refusal(self, *words: object, prelude: str = "") -> str:
        """The one line that a pipeline is refused with."""
        status, out, err = self.type(*words, prelude=prelude)
        assert status == 2, out + err
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1, err
        return err.removeprefix("error: ").rstrip("\n")

    @property
    def run(self) -> Path:
        """The folder of the only version."""
        (folder,) = self.versions()
        return folder

    def versions(self) -> list[Path]:
        return [path for path in sorted(self.store.iterdir()) if path.is_dir()]

    def test_reads(self) -> list[str]:
        """What was evaluated on `val_test`, each reading, by the count of the machine."""
        (path,) = (self.desk.folder / "home" / "test_reads").iterdir()
        return [json.loads(line)["evaluated"] for line in path.read_text().splitlines()]


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finals(run: Path) -> int:
    """How often a version's ledger says that `val_test` gave final figures."""
    return sum(entry.step == "final figures" for entry in read_ledger(run))


@pytest.fixture(scope="module")
def trained(module_desk) -> Piped:
    """A pipeline that did every step, by the launcher that is the default."""
    done = module_desk.type("pipeline", module_desk.recipe)
    assert done.status == 0, done.out + done.err
    return Piped(module_desk, module_desk.folder / "run-pipeline")


@pytest.fixture
def piped(trained, tmp_path) -> Piped:
    """A copy of that pipeline's folder."""
    shutil.copytree(trained.store, tmp_path / "store")
    return Piped(trained.desk, tmp_path / "store")


@pytest.fixture(scope="module")
def kept(trained, tmp_path_factory) -> Piped:
    """A copy for tests each of which leaves it up to date."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    shutil.copytree(trained.store, folder)
    return Piped(trained.desk, folder)


pytestmark = pytest.mark.slow


def test_every_step_is_done_once_and_then_none(trained):
    assert [path.stem for path in sorted((trained.run / "steps").iterdir(), key=os.path.getmtime)] == ALL
    assert json.loads((trained.run / "exports" / "stock" / "proof.json").read_text())
    before = listing(trained.store)
    assert trained.done() == []
    assert trained.why() == {}
    assert listing(trained.store) == before
    assert len(trained.test_reads()) == finals(trained.run) == 1


def test_a_call_that_finds_all_up_to_date_imports_neither_torch_nor_transformers(trained):
    trained.done()  # so that its recipe was resolved before
    told = "import atexit, sys; atexit.register(lambda: print({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    words = (trained.desk.recipe, "--output_dir", trained.store)
    done = trained.desk.type("pipeline", *words, prelude=told, fresh=True)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == "set()"


def test_until_ends_with_a_step_and_a_later_call_goes_on(trained, tmp_path):
    piped = Piped(trained.desk, tmp_path / "store")
    assert piped.done("--until", "split") == ["split"]
    assert [path.name for path in (piped.run / "steps").iterdir()] == ["split.json"]
    assert piped.done("--until", "predict") == ALL[:3]
    assert not (piped.run / "calibration.json").exists()
    assert piped.done("--until", "report") == ALL[:8]  # through training: until assemble its model is nowhere else
    assert (piped.run / "metrics.json").read_bytes() == (trained.run / "metrics.json").read_bytes()
    assert not (piped.run / "exports").exists()


def test_a_dry_run_says_why_draws_and_changes_nothing(trained, tmp_path):
    piped = Piped(trained.desk, tmp_path / "new")
    picture = tmp_path / "pipeline.svg"
    assert piped.why("--graph", picture) == {"split": "first version"} | dict.fromkeys(ALL[1:], "not done yet")
    assert not piped.store.exists()
    words = [text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert set(ALL) <= set(words)
    assert words.count("not done yet") == len(ALL) - 1
    before = listing(trained.store)
    found = trained.why("--learning_rate", "1", "--until", "train")
    assert found["split"].startswith(f"differs from version {trained.run.name}: learning_rate (1.0 here, ")
    assert list(found) == ["split", "train"]
    assert listing(trained.store) == before


def test_other_decisions_run_calibrate_and_what_follows_and_earlier_ones_are_found_again(piped):
    first, before = piped.run, listing(piped.run)
    f1 = ("--threshold_metric", "f1")
    assert piped.done(*f1) == BEHIND
    (second,) = (path for path in piped.versions() if path != first)
    assert second.name.split("-")[0] == first.name.split("-")[0]
    assert listing(first) == before
    for name in ("run.json", "predictions/val_test.parquet", "steps/train.json", "steps/predict.json"):
        assert (second / name).samefile(first / name)
    assert not (second / "checkpoints").exists()
    assert json.loads((second / "calibration.json").read_text())["threshold_choice"]["metric"] == "f1"
    assert finals(second) == finals(first) + 1  # and each version says what was read for it, before and now
    assert piped.done() == piped.done(*f1) == []
    # Weights that are gone are those of the other version, and the calibration is put into them.
    (second / "model.safetensors").unlink()
    assert piped.done(*f1) == ["assemble"]
    assert listing(first) == before


FILES = {  # each is tried with one of two faults
    "calibration.json": ["calibrate"],
    "gallery.json": ["show"],
    "report.html": ["report"],
    "README.md": ["report"],
    "exports/stock/model.safetensors": ["export", "prove"],
    "exports/stock/proof.json": ["prove"],
}


@pytest.mark.parametrize(("name", "fault"), zip(FILES, ("gone", "changed") * 3, strict=True))
def test_an_output_that_is_gone_or_edited_is_made_again_and_what_follows_is_not(kept, name, fault):
    path, whole = kept.run / name, listing(kept.run)
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    is_or_was = {"gone": "is", "changed": "was"}[fault]
    assert kept.why()[FILES[name][0]] == f"output {name} {is_or_was} {fault}"
    assert kept.done() == FILES[name]
    assert kept.why() == {}
    now = listing(kept.run)
    assert {file for file in whole if now[file] != whole[file]} <= {
        *(f"steps/{step}.json" for step in FILES[name]),
        *("ledger.jsonl", "exports/stock/proof.json", "report.html", "README.md"),
    }
    assert finals(kept.run) == 1


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("splits.json", "split"),
        ("run.json", "train"),
        ("predictions/val_calib.parquet", "predict"),
        ("model.safetensors", "assemble"),
        ("metrics.json", "evaluate"),
    ],
)
def test_nothing_that_is_gone_or_edited_leads_to_a_second_reading_of_val_test_unasked(kept, name, step):
    path = kept.run / name
    whole, time, before = path.read_bytes(), path.stat().st_mtime_ns, listing(kept.run)
    for damage, fault in ((path.unlink, "is gone"), (lambda: path.write_bytes(b"{}"), "was changed")):
        damage()
        line = kept.refusal()
        assert line.startswith(f"{kept.run}: {step}: output {name} {fault}: this would read val_test again: ")
        assert "add --evaluate_again" in line
    path.write_bytes(whole)  # the file is brought back, and all is well
    assert kept.done() == []
    os.utime(path, ns=(time, time))
    assert listing(kept.run) == before


def test_val_test_is_read_once_more_on_request_and_that_is_counted(piped):
    before, reads = (piped.run / "metrics.json").read_bytes(), piped.test_reads()
    (piped.run / "metrics.json").unlink()
    assert piped.done("--evaluate_again") == ["evaluate"]
    assert (piped.run / "metrics.json").read_bytes() == before
    assert finals(piped.run) == 2
    assert len(piped.test_reads()) == len(reads) + 1
    # Weights that are gone lead to training from its last checkpoint.
    (piped.run / "model.safetensors").unlink()
    assert piped.done("--evaluate_again", "--until", "report") == ALL[:8]
    assert piped.done("--until", "report") == []
    assert (piped.run / "metrics.json").read_bytes() == before
    assert finals(piped.run) == 3


def test_files_that_were_only_touched_and_other_versions_of_packages_lead_to_nothing(piped):
    for path in piped.run.rglob("*"):
        os.utime(path)
    for path in (piped.run / "steps").iterdir():
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "versions": dict.fromkeys(record["versions"], "0")}))
    before = listing(piped.store)
    assert piped.done() == []
    assert listing(piped.store) == before


def test_a_photo_that_was_replaced_is_another_version_and_one_that_was_touched_is_none(piped, tmp_path):
    place, photos = Path(yaml.safe_load(piped.desk.recipe.read_text())["dataset_name"]), tmp_path / "photos"
    shutil.copytree(place, photos)
    words = ("--dataset_name", photos)
    assert piped.done(*words) == []  # the same bytes in another place
    os.utime(photos / "None" / "000.jpg")
    assert piped.done(*words) == []
    first = piped.run
    shutil.copy(photos / "Roadwork" / "001.jpg", photos / "Roadwork" / "000.jpg")
    assert piped.done(*words, "--until", "train") == ["split", "train"]
    assert len(piped.versions()) == 2
    whole = (place / "Roadwork" / "000.jpg").read_bytes()
    try:
        (place / "Roadwork" / "000.jpg").write_bytes(whole + b"a comment")
        assert piped.why()["split"] == f"differs from version {first.name}: the photos or the checkpoint changed"
    finally:
        (place / "Roadwork" / "000.jpg").write_bytes(whole)
    assert piped.why() == {}


@pytest.mark.long
def test_killed_at_every_step_and_boundary_the_same_command_ends_with_the_same_figures(trained, tmp_path):
    piped, kills = Piped(trained.desk, tmp_path / "store"), 0
    for step in ALL:
        for moment in ("halfway", "unrecorded", "recorded") if step != "prove" else ("halfway",):
            status, out, err = piped.type(prelude=f"train_in_a_fork(); kill({step!r}, {moment!r})")
            assert status == -signal.SIGKILL, (step, moment, out, err)
            assert (piped.run / "steps" / f"{step}.json").is_file() == (moment == "recorded")
            kills += 1
    assert kills == 28
    assert piped.done() == ["prove"]
    for name in (
        "metrics.json",
        "selective.json",
        "calibration.json",
        "model.safetensors",
        "predictions/val_test.parquet",
    ):
        assert (piped.run / name).read_bytes() == (trained.run / name).read_bytes(), name
    assert finals(piped.run) == 3  # twice it was killed when it had read, and before it could say what it found
    assert len({*piped.test_reads()}) == len({*trained.test_reads()})


def test_killed_in_a_version_that_took_over_training_it_goes_on_and_the_other_version_is_as_it_was(piped):
    first, f1 = piped.run, ("--threshold_metric", "f1", "--until", "report")
    before = listing(first)
    for step in BEHIND[:-2]:
        for moment in ("halfway", "unrecorded"):
            assert piped.type(*f1, prelude=f"kill({step!r}, {moment!r})").status == -signal.SIGKILL, (step, moment)
    assert piped.done(*f1) == ["report"]
    assert piped.done(*f1) == []
    assert listing(first) == before
    assert len(piped.versions()) == 2


def test_a_full_disk_is_told_in_one_line_leaves_nothing_half_written_and_the_same_command_goes_on(piped):
    f1, before = ("--threshold_metric", "f1", "--until", "export"), listing(piped.run)
    first = piped.run
    for step in BEHIND[:-1]:
        line = piped.refusal(*f1, prelude=f"fill_disk({step!r})")
        assert line.startswith("no space left on the disk while writing ")
        assert line.endswith(": free some room or choose another folder")
        (second,) = (path for path in piped.versions() if path != first)
        assert not (second / "steps" / f"{step}.json").exists() or step == "assemble"  # whose record was taken over
        assert not [path for path in second.rglob(".*") if path.name != ".staging"]
        assert next(iter(piped.why(*f1))) == step
    assert piped.done(*f1) == ["export"]
    assert finals(second) == finals(first) + 2
    assert listing(first) == before


def test_a_full_disk_in_training_is_told_and_training_goes_on(trained, tmp_path):
    piped = Piped(trained.desk, tmp_path / "store")
    status, out, err = piped.type("--until", "train", prelude="train_in_a_fork(); fill_disk('train')")
    assert status == 2, out + err
    first, second = err.splitlines()
    assert "no space left on " in first.lower()
    assert second.startswith(
        f"error: {piped.run}: training failed with exit status 2, see its output above; the same c"
    )
    assert piped.done("--until", "train") == ["split", "train"]  # a training that goes on looks at its photos again


SLOW = "import time; time.sleep(600)"


@pytest.fixture
def waiting(trained, tmp_path):
    """A pipeline whose training only waits, as its launcher has it."""
    (tmp_path / "slow.py").write_text(SLOW)
    return Piped(trained.desk, tmp_path / "store"), ("--launcher", f"python {tmp_path / 'slow.py'}")


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "terminated by SIGTERM\n")]
)
def test_a_signal_ends_training_too_and_a_line_says_that_the_same_command_continues(waiting, number, line):
    piped, words = waiting
    signalled = f"in_training({str(piped.store)!r}, {int(number)})"
    status, out, err = piped.type(*words, prelude=signalled)
    assert (status, err) == (128 + number, line)
    assert out.splitlines()[-2:] == ["", "stopped; the same command continues from here"]
    assert not list(piped.store.iterdir())  # neither a lease nor a version
    assert piped.why("--until", "split") == {"split": "first version"}


def test_training_that_has_outlived_its_pipeline_is_told_of(waiting):
    piped, words = waiting
    killed = piped.type(*words, prelude=f"in_training({str(piped.store)!r}, {int(signal.SIGKILL)})")
    assert killed.status == -signal.SIGKILL
    group = int((piped.store / GROUP).read_text())
    line = piped.refusal()
    assert f"training from an earlier call is still running (process group {group}): wait until it ends" in line
    os.killpg(group, signal.SIGKILL)
    assert piped.done("--until", "split") == ["split"]


def test_a_second_pipeline_on_the_folder_is_told_of_the_first(piped):
    (piped.run / "report.html").unlink()
    with held(piped.store / ".lease", "a test"):
        line = piped.refusal()
        assert line.startswith(f"{piped.store}: another pipeline is at work (")
        assert f"pid {os.getpid()}): wait until it has ended" in line
        assert piped.why()["report"] == "output report.html is gone"  # asking is free
    assert piped.done() == ["report"]


def test_nothing_is_published_unasked(piped):
    words = ("--push_to_hub", "true", "--hub_model_id", "owner/name")
    assert piped.done(*words, "--learning_rate", "1e-4", "--until", "report") == ALL[:8]  # offline a push would fail
    (second,) = (path for path in piped.versions() if not (path / "exports").exists())
    assert "push_to_hub" not in yaml.safe_load((second / "recipe.yaml").read_text())


def test_what_cannot_be_done_is_refused_in_one_line_and_changes_nothing(piped, tmp_path):
    before = listing(piped.store)
    steps = ", ".join(ALL)
    assert piped.refusal("--until", "publish") == f"--until: expected one of {steps}; found publish"
    assert (
        piped.refusal("--sweep", "true")
        == "pipeline: the recipe is for a sweep, which has no such steps: leave that key out"
    )
    refit = ("--refit", "all", "--refit_from", piped.run)
    assert piped.refusal(*refit) == "pipeline: the recipe is for a refit, which has no such steps: leave that key out"
    other = ("--learning_rate", "1")
    for launcher in ("no-such-command", ""):
        line = piped.refusal(*other, "--launcher", launcher, prelude="None")
        assert line == f"--launcher '{launcher}': command not found: the default is accelerate launch"
    assert piped.refusal(*other, "--launcher", "'", prelude="None") == "--launcher ': No closing quotation"
    hidden = "from natix_hf.runs.pipeline import plan; plan.find_spec = lambda name: None"
    line = piped.refusal("--hub_format", "onnx", prelude=hidden)
    assert line == "hub_format: onnx needs onnx, onnxscript, onnxruntime: pip install 'natix_hf[onnx]'"
    assert listing(piped.store) == before
    line = Piped(piped.desk, piped.run).refusal()
    assert line.startswith(f"output_dir {piped.run}: expected a folder of versions, found a run")
    (tmp_path / "file").write_text("")
    found = piped.desk.type("pipeline", piped.desk.recipe, "--output_dir", tmp_path / "file" / "store")
    assert found.status == 2
    assert found.err.startswith(f"error: output_dir {tmp_path}/file/store: cannot be written: ")


def test_a_version_without_its_run_json_is_not_trained_over(trained, tmp_path):
    piped = Piped(trained.desk, tmp_path / "store")
    piped.done("--until", "split")
    (piped.run / "run.json").unlink()
    line = piped.refusal()
    assert line == f"{piped.run}: run.json is missing: restore it, or remove the folder to train again"


def test_explain_tells_the_way_from_a_figure_back_to_the_photos_and_refuses_what_it_does_not_know(trained):
    def explain(folder, name):
        return trained.desk.type("pipeline", folder, "--explain", name)

    status, out, err = explain(trained.run, "metrics.json")
    assert status == 0, err
    told = re.findall(r"^ *by (\w+)", out, re.MULTILINE)
    assert told[0] == "evaluate"
    assert {"split", "train", "predict", "calibrate", "evaluate"} == set(told)
    certificate = json.loads((trained.run / "splits.json").read_text())
    for split in ("train", "val_test"):
        assert f"of {split} (fingerprint {certificate['fingerprints'][split][:12]})" in out
    for folder, name, line in (
        (trained.run, "nothing.json", f"{trained.run}: no step wrote nothing.json: the steps wrote README.md, "),
        (trained.store, "metrics.json", f"{trained.store}: no steps/ folder, so the origin of its files is unknown"),
    ):
        status, out, err = explain(folder, name)
        assert (status, out) == (2, "")
        assert err.startswith(f"error: {line}")
