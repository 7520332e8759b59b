"""An interrupted run goes on as it was begun: what may change does, all else is refused before a photo is read."""

import json
import shutil

import pytest
import yaml

GO_ON = ("--resume_from_checkpoint", "true")
STOP = """
import os, signal
from natix_hf.training import trainer
step_end = trainer._Epochs.on_step_end
def stop(self, args, state, control, **kwargs):
    step_end(self, args, state, control, **kwargs)
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does
trainer._Epochs.on_step_end = stop
"""
RHYTHM = ("--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2")


@pytest.fixture(scope="module")
def interrupted(module_desk):
    """The folder of a run with checkpoints of steps 2 and 4 that was stopped at step 5 of 8."""
    stopped = module_desk.type("train", module_desk.recipe, *RHYTHM, "--num_train_epochs", "2", prelude=STOP)
    assert stopped.status == 143, stopped.err
    assert stopped.err.endswith("terminated by SIGTERM\n")
    assert f"stopped; to continue from the last checkpoint in {module_desk.output}" in stopped.out
    folders = sorted(folder.name for folder in (module_desk.output / "checkpoints").iterdir())
    assert folders == ["checkpoint-2", "checkpoint-4"]
    return module_desk.output


@pytest.fixture
def stopped(module_desk, interrupted, tmp_path):
    """A function that types the recipe of the interrupted run once more; its folder is `stopped.output`."""

    class Stopped:
        output = tmp_path / "moved" / "run"
        words = (module_desk.recipe, *RHYTHM, "--num_train_epochs", "2", "--output_dir", output, *GO_ON)

        def refusal(self, *words):
            files = {path: path.read_bytes() for path in self.output.rglob("*") if path.is_file()}
            line = module_desk.refusal("train", *self.given(words))
            assert files == {path: path.read_bytes() for path in self.output.rglob("*") if path.is_file()}
            return line

        def given(self, words):
            pairs = list(zip(self.words[1::2], self.words[2::2], strict=True))
            keys = {word for word in words if str(word).startswith("--")}
            return [self.words[0], *(word for pair in pairs if pair[0] not in keys for word in pair), *words]

        def train(self, *words):
            done = module_desk.type("train", *self.given(words))
            assert done.status == 0, done.err
            return done

    shutil.copytree(interrupted, Stopped.output)
    return Stopped()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--learning_rate", "1e-4"), "learning_rate (0.0001 here, 0.0002 there)"),
        (("--lora_r", "2"), "lora_r (2 here, 4 there)"),
        (("--optim", "lion"), "optim (lion here, adamw_torch_fused there)"),
        (("--method", "full"), "method (full here, lora there)"),
        (("--loss", "focal"), "loss (focal here, ce there)"),
        (("--seed", "7"), "seed (7 here, 42 there)"),
        (("--augment", "none"), "augment (none here, basic there)"),
        (("--image_size", "64"), "image_size (64 here, 32 there)"),
        (("--image_size", "32", "64"), "image_size ([32, 64] here, 32 there)"),
        (("--ema", "false"), "ema (False here, True there)"),
        (("--lr_scheduler_type", "constant"), "lr_scheduler_type (constant here, cosine there)"),
        (("--early_stopping_patience", "3"), "early_stopping_patience (3 here, None there)"),
        (("--adam_beta2", "0.95"), "adam_beta2 (0.95 here, 0.999 there)"),
        (("--max_grad_norm", "5"), "max_grad_norm (5.0 here, 1.0 there)"),
        (("--split_seed", "1"), "split_seed (1 here, 0 there)"),
        (("--num_train_epochs", "1"), "num_train_epochs (1.0 here, 2.0 there)"),
        (("--model_name_or_path", "builtin:demo-backbone"), "model_name_or_path (builtin:demo-backbone here"),
        (("--optim_target_modules", "x"), "optim_target_modules"),
    ],
)
def test_another_setting_is_refused_with_both_values(stopped, words, told):
    line = stopped.refusal(*words, "--dataset_name", "/no/such/photos")  # which are not looked for
    assert told in line
    assert f"recipe.yaml --output_dir {stopped.output} --resume_from_checkpoint true" in line
    assert "--overwrite_output_dir true" in line


def test_a_moved_run_goes_on_from_its_last_checkpoint_and_keeps_its_best_one(stopped):
    done = stopped.train()
    assert f"resumed: training continues from {stopped.output}/checkpoints/checkpoint-4, after step 4" in done.out
    assert "exist" not in done.out + done.err
    assert "attention" not in done.out
    record = json.loads((stopped.output / "run.json").read_text())
    assert record["steps"] == 8
    assert record["best_step"] in (2, 4, 6, 8)


def test_output_logging_rhythm_and_more_epochs_may_change_and_do(stopped):
    done = stopped.train(
        *("--num_train_epochs", "3", "--logging_steps", "1", "--save_steps", "3", "--eval_steps", "3"),
        *("--per_device_eval_batch_size", "4", "--save_total_limit", "9"),
    )
    assert "num_train_epochs 2 -> 3" in done.out
    assert "do not match" not in done.out + done.err
    record = json.loads((stopped.output / "run.json").read_text())
    assert record["steps"] == 12
    log = [entry for entry in record["log_history"] if entry["step"] > 4]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(5, 13))
    assert [entry["step"] for entry in log if "eval_mcc" in entry] == [6, 9, 12]
    assert {"checkpoint-6", "checkpoint-9"} <= {path.name for path in (stopped.output / "checkpoints").iterdir()}
    recipe = yaml.safe_load((stopped.output / "recipe.yaml").read_text())
    assert (recipe["num_train_epochs"], recipe["save_steps"]) == (3.0, 3)


def test_another_attention_goes_on_with_a_line_and_stands_in_the_record(stopped):
    assert json.loads((stopped.output / "run.json").read_text())["attention"] == "sdpa"
    done = stopped.train("--attn_implementation", "eager")
    assert done.out.count("resumed: attention is eager here and was sdpa: losses differ by rounding from here") == 1
    assert json.loads((stopped.output / "run.json").read_text())["attention"] == "eager"


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def test_a_truncated_checkpoint_is_passed_over_with_a_line(stopped):
    cut(stopped.output / "checkpoints" / "checkpoint-4" / "optimizer.pt")
    done = stopped.train()
    assert "training continues from" in done.out
    assert "after step 2; checkpoint-4 is incomplete: optimizer.pt: expected" in done.out


def test_where_every_checkpoint_is_truncated_nothing_starts_at_step_1(stopped):
    for step in (2, 4):
        cut(stopped.output / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors")
    line = stopped.refusal()
    assert "checkpoint-4 is damaged (adapter_model.safetensors: expected" in line
    assert "--overwrite_output_dir true" in line


def test_a_checkpoint_that_was_never_written_to_its_end_starts_at_step_1_with_a_line(stopped):
    shutil.rmtree(stopped.output / "checkpoints" / "checkpoint-2")
    (stopped.output / "checkpoints" / "checkpoint-4" / "complete.json").unlink()
    done = stopped.train()
    assert "so training starts at step 1; checkpoint-4 is incomplete: it was not written completely" in done.out


def test_a_checkpoint_folder_by_its_name(stopped, tmp_path):
    there = stopped.output / "checkpoints" / "checkpoint-2"
    line = stopped.refusal("--resume_from_checkpoint", there, "--lora_alpha", "8")
    assert "lora_alpha (8 here, 32 there)" in line
    line = stopped.refusal("--resume_from_checkpoint", there.parent / "checkpoint-3")
    assert "no such folder; the last complete one is" in line
    other = tmp_path / "other"
    done = stopped.train("--resume_from_checkpoint", there, "--output_dir", other)
    assert f"training continues from {there}, after step 2" in done.out
    shutil.copytree(there, tmp_path / "alone")
    assert "has no recipe.yaml" in stopped.refusal("--resume_from_checkpoint", tmp_path / "alone")


def test_a_checkpoint_without_its_optimizer_is_refused(stopped):
    from natix_hf.training.checkpoints import mark_complete

    last = stopped.output / "checkpoints" / "checkpoint-4"
    for name in ("optimizer.pt", "scheduler.pt"):
        (last / name).unlink()
    mark_complete(last)
    assert "has only the model" in stopped.refusal()


def test_words_that_ask_for_no_resume_do_not_resume(stopped):
    assert "holds an interrupted run" in stopped.refusal("--resume_from_checkpoint", "no")
