"""The end of training leaves a page with photos; evaluating again makes it anew without the model or the photos."""

import shutil

import pytest

from natix_hf import UserError
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.hub.public_page import write_public_page
from natix_hf.runs.evaluate_run import evaluate_run
from natix_hf.runs.report_page import report_run, rows_of, write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_backbone, make_photos):
    """A finished run whose labels are half wrong, so that mistakes abound."""
    from natix_hf import NatixTrainer, NatixTrainingArguments, finish_run, load_model, load_photos, train_run

    folder = tmp_path_factory.mktemp("report")
    photos = make_photos(folder / "photos", {"None": (110, 110, 110), "Roadwork": (112, 108, 110)}, 24)
    splits = load_photos(photos)
    model, processor = load_model(str(tiny_backbone), splits.label_names, method="probe", image_size=32)
    arguments = NatixTrainingArguments(
        output_dir=str(folder / "run"), num_train_epochs=1, dataloader_num_workers=0, disable_tqdm=True, use_cpu=True
    )
    trainer = NatixTrainer(model, arguments, splits=splits, processing_class=processor, augment="none")
    train_run(trainer)
    finish_run(trainer)
    return folder / "run"


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def documents(run) -> RunDocuments:
    return RunDocuments.read(run, read_certificate(run))


def test_training_ends_with_a_page_that_holds_its_photos(run):
    page = (run / "report.html").read_text()
    test = rows_of(run, "val_test")
    wrong = {str(name) for name in test.ids[test.decided != test.labels]}
    kept = {photo.id for photo in Gallery.read(run).photos if photo.split == "val_test"}
    assert wrong
    assert wrong <= kept
    assert page.count('class="shot"') >= len(wrong)
    assert page.count("data:image/jpeg;base64") == page.count('class="photo"')
    assert page.count("data:image/png;base64") == page.count('class="heat"') > 0
    assert {"threshold.png", "risk_coverage.png", "ranking.png"} <= {path.name for path in (run / "figures").iterdir()}


def test_the_ledger_says_that_photos_were_shown(run):
    read = [(entry.step, entry.split) for entry in read_ledger(run)]
    assert read.count(("doubtful labels", "val_select")) == 1
    assert read.count(("confident mistakes", "val_test")) == 1
    assert read.count(("final figures", "val_test")) == 1
    assert "doubtful labels" in (run / "report.html").read_text()


def test_evaluating_again_takes_the_photos_that_were_kept(copied):
    before = (copied / "report.html").read_text()
    (copied / "report.html").unlink()
    (copied / "model.safetensors").unlink()
    evaluate_run(copied)
    report_run(copied)
    after = (copied / "report.html").read_text()
    assert after.count("data:image/jpeg") == before.count("data:image/jpeg") > 0
    assert "final figures (2 times)" in after


def test_a_page_to_pass_on_names_no_photo_and_no_path(copied):
    write_public_page(copied, documents(copied), copied / "public.html")
    page = (copied / "public.html").read_text()
    test = rows_of(copied, "val_test")
    assert not [name for name in {*test.ids, *test.groups} if str(name) in page]
    assert "data:image/jpeg" not in page
    assert str(copied) not in page


@pytest.mark.parametrize("name", ["metrics", "calibration", "run"])
def test_a_missing_file_is_named(copied, name):
    (copied / f"{name}.json").unlink()
    with pytest.raises(UserError, match=rf"no {name}\.json, so there is nothing to report") as refused:
        write_report(copied, documents(copied))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_json_is_named(copied):
    (copied / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: not JSON"):
        write_report(copied, documents(copied))
