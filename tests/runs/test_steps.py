"""Steps and versions: what a step may touch, when it has to be done again and why, and what a version is named by.

Files stand for what steps make; nothing is trained.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.documents.ledger import LedgerEntry, read_ledger
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.runs.pipeline.made_from import (
    DECISION,
    NAMED_BY_CONTENT,
    PREDICTED,
    content_of,
    nearest,
    restore,
    sibling,
    take_over,
    version_name,
)
from natix_hf.runs.pipeline.plan import Version, plan, wanted
from natix_hf.runs.same_recipe import PLACES
from natix_hf.runs.steps import (
    ASSEMBLE,
    CALIBRATE,
    EVALUATE,
    EXPORT,
    PREDICT,
    PROVE,
    REPORT,
    SHOW,
    SPLIT,
    TRAIN,
    ContractError,
    Step,
    carried_out,
    outputs_intact,
    stale,
)

MADE = {
    SPLIT: ("splits.json",),
    TRAIN: ("run.json",),
    PREDICT: ("predictions/val_calib.parquet", "predictions/val_test.parquet"),
    CALIBRATE: ("calibration.json",),
    ASSEMBLE: ("model.safetensors", "config.json", "preprocessor_config.json", "adapter/config.json"),
    SHOW: ("gallery.json",),
    EVALUATE: ("metrics.json", "selective.json"),
    REPORT: ("README.md", "report.html"),
    EXPORT: ("exports/stock/export.json", "exports/stock/model.safetensors"),
    PROVE: ("exports/stock/proof.json",),
}
RECIPE = {"learning_rate": 0.1, "output_dir": "runs/x", "threshold_metric": "mcc", "slices": [], "robustness": []}


def put(run: Path, name: str, text: str | None = None) -> None:
    """Write a file as the writers of a run do: replaced, never changed in place."""
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / f"{name}.new").write_text(name if text is None else text)
    os.replace(run / f"{name}.new", run / name)


def options(step: Step, recipe: dict) -> dict | None:
    if step == CALIBRATE:
        return {key: recipe.get(key) for key in DECISION}
    if step == PREDICT:
        return {key: recipe.get(key) for key in PREDICTED}
    return {"form": "auto"} if step == EXPORT else None


def make(run: Path, *steps: Step, text: str | None = None, recipe: dict = RECIPE) -> None:
    for step in steps or MADE:
        with carried_out(run, step, options(step, recipe)):
            for name in MADE[step]:
                put(run, name, text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on which every step was carried out."""
    folder = tmp_path / "store" / version_name(RECIPE, "photos", "checkpoint")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "ledger.jsonl").write_text("")
    make(folder)
    return folder


def reasons(run: Path, steps=tuple(MADE)) -> dict[str, str]:
    """Step -> why it has to be done, of those that have to be."""
    return {step.name: why for step in steps if (why := stale(run, step)) is not None}


def test_what_was_just_made_is_up_to_date(run):
    assert reasons(run) == {}
    assert all(outputs_intact(run, step) for step in MADE)


def fails(run: Path, step: Step, words: str, work) -> None:
    """The work of a step breaks the contract in these words, and the step counts as not done."""
    StepRecord.path(run, step.name).unlink(missing_ok=True)
    with pytest.raises(ContractError, match=words), carried_out(run, step):
        work()
    assert StepRecord.of(run, step.name) is None
    assert stale(run, step) == "not done yet"


def test_a_step_that_changes_what_another_writes_fails(run):
    words = "step 'calibrate' changed run.json, which step 'train' writes"
    fails(run, CALIBRATE, words, lambda: put(run, "run.json", "other"))


def test_a_step_that_removes_what_another_writes_fails(run):
    fails(run, REPORT, "step 'report' changed metrics.json, which step 'evaluate'", (run / "metrics.json").unlink)


def test_a_step_that_writes_what_another_has_yet_to_write_fails(run):
    (run / "metrics.json").unlink()
    words = "step 'calibrate' wrote metrics.json, which step 'evaluate' writes"
    fails(run, CALIBRATE, words, lambda: put(run, "metrics.json"))


def test_a_step_that_reads_what_it_does_not_declare_fails(run):
    words = r"step 'calibrate' read predictions/val_test.parquet of step 'predict', undeclared"
    fails(run, CALIBRATE, words, lambda: (run / "predictions" / "val_test.parquet").read_bytes())


def test_a_step_may_read_what_it_declares_and_write_its_own_files_over(run):
    with carried_out(run, CALIBRATE):
        (run / "predictions" / "val_calib.parquet").read_bytes()
        put(run, "calibration.json", "new")
        (run / "calibration.json").read_text()
    assert outputs_intact(run, CALIBRATE)


def test_a_step_that_leaves_an_output_out_fails(run):
    (run / "selective.json").unlink()
    fails(run, EVALUATE, "step 'evaluate' did not write selective.json", lambda: put(run, "metrics.json"))


def test_outputs_that_not_every_run_has_may_be_left_out(run):
    assert EVALUATE.missing(run) == []
    (run / "metrics.json").unlink()
    assert EVALUATE.missing(run) == ["metrics.json"]


def half_done(run: Path) -> None:
    put(run, "metrics.json", "half")
    raise ZeroDivisionError


def test_a_step_that_fails_midway_leaves_no_record(run):
    StepRecord.path(run, "evaluate").unlink()
    with pytest.raises(ZeroDivisionError), carried_out(run, EVALUATE):
        half_done(run)
    assert reasons(run)["evaluate"] == "not done yet"


def test_a_step_that_fails_where_it_had_been_done_is_seen_by_what_it_has_changed(run):
    with pytest.raises(ZeroDivisionError), carried_out(run, EVALUATE):
        half_done(run)
    assert stale(run, EVALUATE) == "output metrics.json was changed"


def test_what_a_killed_writer_left_under_a_hidden_name_is_no_output(run):
    for name in (".model.123.tmp.safetensors", "predictions/.val_test.9.tmp.parquet", ".staging/config.json"):
        put(run, name)
    assert reasons(run) == {}
    assert not [name for step in MADE for name in step.outputs(run) if "/." in f"/{name}"]


def test_a_process_that_only_helps_checks_and_writes_nothing(tmp_path):
    with carried_out(tmp_path, CALIBRATE, noted=False):
        pass
    assert list(tmp_path.iterdir()) == []


class Reads:
    """Splits of which one row set is read in the block."""

    def new_reads(self):
        return [LedgerEntry(step="final figures", role="final_evaluation", split="val_test", rows=3, fingerprint="a")]


@pytest.mark.parametrize("fault", [None, ZeroDivisionError, KeyboardInterrupt])
def test_reads_are_noted_in_the_ledger_however_the_block_ends(run, fault):
    splits: LockedSplits = Reads()  # type: ignore[assignment]
    try:
        with carried_out(run, SHOW, splits=splits):
            if fault:
                raise fault
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert [(entry.step, entry.rows) for entry in read_ledger(run)] == [("final figures", 3)]


@pytest.mark.parametrize(("step", "name"), [(step, name) for step, names in MADE.items() for name in names])
def test_an_output_that_is_gone_or_edited_is_a_reason(run, step, name):
    put(run, name, "edited")
    assert stale(run, step) == f"output {name} was changed"
    assert not outputs_intact(run, step)
    (run / name).unlink()
    assert stale(run, step) == f"output {name} is gone"
    assert not outputs_intact(run, step)


def test_every_file_that_was_only_touched_is_as_it_was(run):
    for path in run.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(1, 1))
    assert reasons(run) == {}


def test_an_input_that_is_gone_new_or_changed_is_a_reason(run):
    put(run, "predictions/val_calib.parquet", "other")
    assert stale(run, CALIBRATE) == "input predictions/val_calib.parquet was changed"
    (run / "predictions" / "val_calib.parquet").unlink()
    assert stale(run, CALIBRATE) == "input predictions/val_calib.parquet is gone"
    put(run, "predictions/val_calib.parquet")
    assert stale(run, CALIBRATE) is None
    put(run, "predictions/val_calib@challenge-2025.parquet")
    assert stale(run, CALIBRATE) == "input predictions/val_calib@challenge-2025.parquet is new"
    assert outputs_intact(run, CALIBRATE)  # what it wrote is as it wrote it


def test_a_changed_option_is_a_reason_with_both_values_and_others_are_not_compared(run):
    asked = options(CALIBRATE, RECIPE)
    assert stale(run, CALIBRATE, asked) is None
    assert stale(run, CALIBRATE, {**asked, "threshold_metric": "f1"}) == "threshold_metric: mcc before, f1 now"
    assert stale(run, CALIBRATE, {"threshold_metric": "mcc"}) is None


def test_another_version_of_a_package_is_no_reason(run):
    for path in (run / "steps").iterdir():
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "versions": {"torch": "0.1"}}))
    assert reasons(run) == {}


def test_a_record_that_is_damaged_is_told_in_one_line(run):
    StepRecord.path(run, "train").write_text("{")
    with pytest.raises(UserError, match=r"train\.json: not JSON that natix_hf wrote"):
        stale(run, TRAIN)


def test_a_change_goes_on_to_the_steps_that_read_it(run):
    make(run, CALIBRATE, text="other")
    changed = "input calibration.json was changed"
    assert reasons(run) == dict.fromkeys(("assemble", "show", "evaluate", "report", "export", "prove"), changed)


def test_a_step_that_gives_what_it_gave_before_sets_nothing_off(run):
    (run / "calibration.json").unlink()
    assert set(reasons(run)) == {"calibrate", "assemble", "show", "evaluate", "report", "export", "prove"}
    make(run, CALIBRATE)
    assert reasons(run) == {}


@pytest.mark.parametrize("key", [*PLACES, *NAMED_BY_CONTENT])
def test_places_and_names_of_what_is_told_by_content_do_not_name_a_version(key):
    assert version_name(RECIPE | {key: "elsewhere"}, "p", "c") == version_name(RECIPE, "p", "c")


@pytest.mark.parametrize("key", sorted(set(DECISION) - set(PREDICTED)))
def test_a_decision_names_the_second_part_alone(key):
    one, other = (version_name(RECIPE | {key: value}, "p", "c").split("-") for value in ("a", "b"))
    assert one[0] == other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize("key", ["learning_rate", "seed", "method", "split_seed", "image_size", "use_cpu", *PREDICTED])
def test_what_training_and_predictions_are_made_from_names_the_first_part_alone(key):
    one, other = (version_name(RECIPE | {key: value}, "p", "c").split("-") for value in ("a", "b"))
    assert one[0] != other[0]
    assert one[1] == other[1]


def test_other_photos_or_another_checkpoint_are_another_version_and_the_order_of_keys_plays_no_part():
    names = {version_name(RECIPE, photos, checkpoint) for photos in "ab" for checkpoint in "ab"}
    assert len(names) == 4
    assert version_name(dict(reversed(RECIPE.items())), "p", "c") == version_name(RECIPE, "p", "c")


def test_photos_are_told_by_their_bytes_and_names(tmp_path):
    photos = tmp_path / "photos"
    for name in ("A/1.jpg", "B/2.jpg"):
        put(photos, name)
    seen = [content_of(str(photos), "photos")]

    def now() -> str:
        return content_of(str(photos), "photos")

    os.utime(photos / "A" / "1.jpg", ns=(5, 5))
    put(photos, "A/.hidden")
    put(photos, ".cache/3.jpg")
    assert now() == seen[0]
    assert content_of(f"street={photos}", "photos") == seen[0]
    put(photos, "A/1.jpg", "another photo")
    seen.append(now())
    put(photos, "B/3.jpg")
    seen.append(now())
    os.replace(photos / "B" / "3.jpg", photos / "A" / "3.jpg")
    seen.append(now())
    (photos / "A" / "3.jpg").unlink()
    assert now() == seen[1]
    put(photos, "A/1.jpg")
    assert now() == seen[0]
    assert len(set(seen)) == 4


def test_versions_that_lie_among_the_photos_do_not_count_and_nothing_is_written_there(tmp_path):
    put(tmp_path, "A/1.jpg")
    alone = content_of(str(tmp_path), "photos")
    put(tmp_path, "runs/x-pipeline/1-2/gallery/1.jpg")
    assert content_of(str(tmp_path), "photos", beside=tmp_path / "runs" / "x-pipeline") == alone
    assert content_of(str(tmp_path), "photos") != alone
    assert {path.name for path in tmp_path.iterdir()} == {"A", "runs"}


def test_what_has_no_files_here_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert content_of("builtin:scenes", "photos") == "builtin:scenes"
    assert content_of("./gone", "photos") == "./gone"
    assert content_of("owner/name", "checkpoint", revision="abc") == "owner/name@abc"
    assert content_of("owner/name", "checkpoint") == "owner/name@unknown"  # offline, and never seen


def decided(run: Path, **keys) -> Path:
    """The folder of a version that differs in these keys."""
    return run.parent / version_name(RECIPE | keys, "photos", "checkpoint")


def test_a_version_that_differs_in_decisions_takes_over_training_and_predictions(run):
    (run / "ledger.jsonl").write_text('{"a": 1}\n')
    version = decided(run, threshold_metric="f1")
    assert sibling(run.parent, version.name, ASSEMBLE) == run
    take_over(run, version, "threshold_metric: f1\n")
    for step in (SPLIT, TRAIN, PREDICT, ASSEMBLE):
        assert outputs_intact(version, step)
        for name in (*step.outputs(run), f"steps/{step.name}.json"):
            assert (version / name).samefile(run / name)
    assert not (version / "calibration.json").exists()
    assert reasons(version)["calibrate"] == "not done yet"
    with (version / "ledger.jsonl").open("a") as file:
        file.write("more\n")
    assert (run / "ledger.jsonl").read_text() == '{"a": 1}\n'
    assert (version / "recipe.yaml").read_text() == "threshold_metric: f1\n"
    make(version, CALIBRATE, ASSEMBLE, text="other")
    assert reasons(run) == {}  # links are replaced, not written through


def test_files_are_copied_where_the_disk_cannot_link(run, monkeypatch):
    def refuse(*_):
        raise OSError(1, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    version = decided(run, threshold_metric="f1")
    take_over(run, version, "")
    assert outputs_intact(version, TRAIN)
    assert not (version / "run.json").samefile(run / "run.json")


def test_a_version_that_was_killed_while_it_was_taken_over_is_not_there(run, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    version = decided(run, threshold_metric="f1")
    monkeypatch.setattr("natix_hf.files.shutil.rmtree", lambda *_, **__: None)  # nobody tidies up after kill -9
    monkeypatch.setattr("natix_hf.runs.pipeline.made_from.write_text", kill)
    with pytest.raises(Killed):
        take_over(run, version, "")
    assert not version.exists()
    assert nearest(run.parent, RECIPE | {"threshold_metric": "f1"})[0] == run
    monkeypatch.undo()
    take_over(run, version, "")
    assert outputs_intact(version, ASSEMBLE)


@pytest.mark.parametrize("keys", [{"learning_rate": 1}, {"slices": ["weather"]}])
def test_nothing_is_taken_over_from_another_training(run, keys):
    assert sibling(run.parent, decided(run, **keys).name, ASSEMBLE) is None


@pytest.mark.parametrize("name", ["splits.json", "run.json", "predictions/val_test.parquet", "model.safetensors"])
def test_nothing_is_taken_over_where_it_does_not_stand(run, name):
    put(run, name, "edited")
    assert sibling(run.parent, decided(run, threshold_metric="f1").name, ASSEMBLE) is None


def test_a_model_is_brought_back_from_a_version_where_it_stands(run):
    version = decided(run, threshold_metric="f1")
    take_over(run, version, "")
    put(version, "model.safetensors", "half")
    assert not outputs_intact(version, ASSEMBLE)
    restore(run, version, ASSEMBLE)
    assert outputs_intact(version, ASSEMBLE)


def planned(run: Path, until: str = "prove", form: str = "auto", **keys) -> dict[str, str]:
    photos = keys.pop("photos", "photos")
    recipe = RECIPE | keys
    name = version_name(recipe, photos, "checkpoint")
    states = plan(Version(run.parent, name, recipe, "", form, ()), wanted(until, recipe))
    return {state.step.name: state.why for state in states if state.why is not None}


def after(first: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"after {first}")


def test_a_plan_of_what_is_there_is_empty_and_changes_nothing(run):
    before = sorted(run.parent.rglob("*"))
    assert planned(run) == {}
    assert planned(run, output_dir="elsewhere") == {}
    assert sorted(run.parent.rglob("*")) == before


def test_a_plan_says_why_the_first_step_has_to_be_done_and_of_those_behind_it_what_is_known(run):
    (run / "calibration.json").unlink()
    found = planned(run)
    assert found.pop("calibrate") == "output calibration.json is gone"
    assert found == dict.fromkeys(
        ("assemble", "show", "evaluate", "report", "export", "prove"), "input calibration.json is gone"
    )
    (run / "splits.json").unlink()
    assert planned(run)["split"] == "output splits.json is gone"


def test_a_step_that_reads_nothing_of_what_is_due_is_not_due(run):
    put(run, "README.md", "edited")
    assert planned(run) == {"report": "output README.md was changed"}


def test_a_plan_of_other_decisions_begins_with_calibrate(run):
    assert planned(run, threshold_metric="f1") == {
        "calibrate": "not done yet",
        **after("calibrate", "assemble"),
        **dict.fromkeys(("show", "evaluate", "report", "export", "prove"), "not done yet"),
    }


def test_a_plan_of_another_recipe_names_the_nearest_version_and_what_differs(run):
    found = planned(run, learning_rate=0.2)
    assert found.pop("split") == f"differs from version {run.name}: learning_rate (0.2 here, 0.1 there)"
    assert found == dict.fromkeys([step.name for step in MADE if step != SPLIT], "not done yet")
    assert planned(run, photos="others")["split"].endswith("the photos or the checkpoint changed")


def test_a_plan_where_nothing_was_made_says_so(run):
    first = Version(run.parent / "new", "1-2", RECIPE, "", "auto", ())
    assert [state.why for state in plan(first, wanted("train", RECIPE))] == ["first version", "not done yet"]
    first.run.mkdir(parents=True)
    assert plan(first, wanted("split", RECIPE))[0].why == "started and not finished"


def test_a_plan_of_another_form_of_export_begins_with_it(run):
    assert planned(run, form="onnx") == {"export": "form: auto before, onnx now", **after("export", "prove")}


def test_a_plan_ends_with_the_step_that_is_named_and_times_only_where_profiles_are_asked_for(run):
    (run / "metrics.json").unlink()
    assert planned(run, until="show") == {}
    assert "time" not in [step.name for step in wanted("prove", RECIPE)]
    assert "time" in [step.name for step in wanted("prove", {"robustness": ["challenge@2025"]})]
    with pytest.raises(UserError, match=r"--until: expected one of split, train, .*, prove; found all"):
        wanted("all", RECIPE)
