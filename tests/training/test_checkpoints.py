import pytest

from natix_hf.errors import UserError
from natix_hf.training.checkpoints import checkpoints, is_complete, mark_complete, remove_incomplete, resume_point


@pytest.fixture
def run(tmp_path):
    for step in (5, 10, 20):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * step)
        mark_complete(folder)
    return tmp_path


def test_checkpoints_come_in_the_order_of_their_steps(run):
    assert [p.name for p in checkpoints(run)] == ["checkpoint-5", "checkpoint-10", "checkpoint-20"]


def test_a_folder_whose_writing_was_cut_short_does_not_count(run):
    last = run / "checkpoints" / "checkpoint-20"
    (last / "complete.json").unlink()
    assert not is_complete(last)
    assert resume_point(run, "true").name == "checkpoint-10"
    assert remove_incomplete(run) == ["checkpoint-20"]
    assert not last.exists()


def test_a_file_that_was_cut_short_or_half_deleted_does_not_count(run):
    (run / "checkpoints" / "checkpoint-20" / "weights").write_bytes(b"x" * 19)
    (run / "checkpoints" / "checkpoint-10" / "weights").unlink()
    assert [p.name for p in checkpoints(run)] == ["checkpoint-5"]


def test_a_run_whose_checkpoints_were_all_damaged_is_not_begun_again_silently(run):
    for step in (5, 10):
        (run / "checkpoints" / f"checkpoint-{step}" / "weights").unlink()
    (run / "checkpoints" / "checkpoint-20" / "complete.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint-20 is damaged \(complete.json cannot be read\)"):
        resume_point(run, "true")


def test_a_named_folder_that_is_not_whole_is_refused_with_the_last_that_is(run):
    with pytest.raises(UserError, match=r"the last complete one is .*checkpoint-20"):
        resume_point(run, str(run / "checkpoints" / "checkpoint-99"))


@pytest.mark.parametrize("asked", [None, False, "false", "none"])
def test_nothing_is_resumed_unasked(run, asked):
    assert resume_point(run, asked) is None
