"""natix-hf pretrain as a user types it: a backbone that loads everywhere, and what is refused."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = """\
image_size: 32
max_steps: 6
per_device_train_batch_size: 8
dataloader_num_workers: 0
use_cpu: true
disable_tqdm: true
learning_rate: 1e-3
pretrain_objective: distill
pretrain_lora_r: 4
pretrain_milestones: 3
pretrain_guard_photos: 16
pretrain_guard_steps: 2
pretrain_momentum: 0.5
logging_steps: 2
output_dir: {output}
model_name_or_path: {model}
dataset_name: {photos}
unlabelled_name: [{pool}]
forgetting_name: {other}
"""
PLACES = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}
GO_ON = ("--resume_from_checkpoint", "true")
KILL = """
import os, signal
from natix_hf.training.pretrain import pretrain_trainer
step_end = pretrain_trainer._Steps.on_step_end
def kill(self, args, state, control, **kwargs):
    step_end(self, args, state, control, **kwargs)
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
pretrain_trainer._Steps.on_step_end = kill
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pretrain_desk(module_desk, tiny_backbone, make_photos):
    desk, folder = module_desk, module_desk.folder
    desk.pool = make_photos(folder / "pool", {"x": (20, 200, 90)}, 12, seed=5)
    desk.pretrain_recipe = folder / "explora.yaml"
    desk.result, desk.base = folder / "explora", tiny_backbone
    other = make_photos(folder / "other-kind", {"bird": (90, 90, 200), "tree": (60, 160, 60)}, 16, seed=8)
    places = {"output": desk.result, "model": tiny_backbone, "photos": folder / "photos", "pool": desk.pool}
    desk.pretrain_recipe.write_text(RECIPE.format(**places, other=other))
    return desk


@pytest.fixture(scope="module")
def pretrained(pretrain_desk):
    """The folder of a finished pretraining, of which copies of val photos in the pool were left out."""
    splits = pretrain_desk.type(
        "data", "split", pretrain_desk.folder / "photos", "--output", pretrain_desk.folder / "cut"
    )
    assert splits.status == 0, splits.err
    certificate = json.loads((pretrain_desk.folder / "cut" / "splits.json").read_text())
    for split in ("train", "val_test"):
        name = certificate["ids"][split][0]
        shutil.copy(pretrain_desk.folder / "photos" / name, pretrain_desk.pool / f"{split}.jpg")
    done = pretrain_desk.type("pretrain", pretrain_desk.pretrain_recipe)
    assert done.status == 0, done.err
    pretrain_desk.said = done.out
    return pretrain_desk.result


def test_what_is_left_is_an_ordinary_backbone_with_everything_that_explains_it(pretrain_desk, pretrained):
    files = {path.name for path in pretrained.iterdir()}
    assert files >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "choice.json"}
    assert files >= {"guard.json", "pool.json", "splits.json", "run.json", "recipe.yaml", "ledger.jsonl", "milestones"}
    assert (pretrained / "figures" / "guard.png").is_file()
    model = AutoModel.from_pretrained(pretrained)
    assert type(model).__name__ == "DINOv3ViTModel"
    pool = json.loads((pretrained / "pool.json").read_text())
    assert [one["id"] for one in pool["tied"]] == ["val_test.jpg"]
    assert pool["photos"] == 13
    choice = json.loads((pretrained / "choice.json").read_text())
    assert [one["step"] for one in choice["candidates"]] == [0, 3, 5, 6]
    assert all(one["forgetting"] is not None for one in choice["candidates"])
    assert "forgetting" in pretrain_desk.said
    chosen = choice["chosen"]
    place = pretrained / "milestones" / f"step-{chosen:06d}" if chosen else pretrain_desk.base
    assert_same(load_file(place / "model.safetensors"), load_file(pretrained / "model.safetensors"))
    assert choice["reason"] in pretrain_desk.said
    assert "1 are tied to val_* and left out (val_test.jpg; pool.json has all)" in pretrain_desk.said
    assert "trains" in pretrain_desk.said
    assert "step 2/6" in pretrain_desk.said
    card = (pretrained / "README.md").read_text()
    assert "13 without labels" in card
    assert "1 photos without labels that are tied" in card
    assert str(pretrain_desk.folder) not in card


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_the_ledger_says_that_pretraining_read_train_and_the_pool_alone(pretrained):
    entries = [json.loads(line) for line in (pretrained / "ledger.jsonl").read_text().splitlines()]
    reads = [(entry["step"], entry["role"], entry["split"]) for entry in entries]
    assert reads == [
        ("pretrain", "training", "train"),
        ("pretrain", "unlabelled", "pool"),
        ("choose milestone", "training", "train"),
        ("choose milestone", "selection", "val_select"),
    ]


def test_training_goes_on_from_a_milestone_on_the_same_split_and_is_refused_on_another(pretrain_desk, pretrained):
    base = pretrained / "milestones" / "step-000006"
    words = (pretrain_desk.recipe, "--method", "probe", "--model_name_or_path", base)
    line = pretrain_desk.refusal("train", *words, "--split_seed", "1")
    assert "step-000006 was pretrained on photos that this split tests with" in line
    assert "of val_" in line
    done = pretrain_desk.type("train", *words, "--output_dir", pretrain_desk.folder / "tuned")
    assert done.status == 0, done.err
    tuned = pretrain_desk.folder / "tuned"
    config = json.loads((tuned / "config.json").read_text())
    assert config["backbone_config"]["lineage"]["photos"] > 0
    # What was trained from it carries it on, also where it was published and fetched again.
    published = pretrain_desk.folder / "published"
    published.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(tuned / name, published / name)
    line = pretrain_desk.refusal(
        "train",
        pretrain_desk.recipe,
        "--method",
        "probe",
        "--model_name_or_path",
        published,
        "--split_seed",
        "1",
        "--output_dir",
        pretrain_desk.folder / "other",
    )
    assert "was pretrained on photos that this split tests with" in line


def test_a_pretrained_folder_is_no_classifier(pretrain_desk, pretrained):
    line = pretrain_desk.refusal(
        "export", pretrained, "--format", "stock", "--output", pretrain_desk.folder / "export"
    )
    assert "a pretrained backbone, which cannot classify photos yet" in line


def test_killed_and_gone_on_it_ends_like_the_undisturbed_one(pretrain_desk, pretrained):
    folder = pretrain_desk.folder / "killed"
    words = (pretrain_desk.pretrain_recipe, "--output_dir", folder)
    killed = pretrain_desk.type("pretrain", *words, prelude=KILL, OMP_NUM_THREADS="1")
    assert killed.status == -signal.SIGKILL
    again = pretrain_desk.type("pretrain", *words, *GO_ON)
    assert again.status == 0, again.err
    assert "training continues from" in again.out
    for step in (3, 5, 6):
        place = f"milestones/step-{step:06d}/model.safetensors"
        assert_same(load_file(pretrained / place), load_file(folder / place))
    assert (pretrained / "guard.json").read_text() == (folder / "guard.json").read_text()
    choices = [json.loads((run / "choice.json").read_text()) for run in (pretrained, folder)]
    assert choices[0] == choices[1]


def test_another_pool_another_recipe_and_a_finished_folder_are_refused(
    pretrain_desk, pretrained, make_photos, tmp_path
):
    assert "already holds a finished run" in pretrain_desk.refusal("pretrain", pretrain_desk.pretrain_recipe)
    folder = pretrain_desk.folder / "stopped"
    words = (pretrain_desk.pretrain_recipe, "--output_dir", folder)
    assert pretrain_desk.type("pretrain", *words, prelude=KILL).status == -signal.SIGKILL
    other = make_photos(tmp_path / "other", {"x": (90, 20, 200)}, 12, seed=6)
    line = pretrain_desk.refusal("pretrain", *words, *GO_ON, "--unlabelled_name", other)
    assert "the photos of unlabelled_name have changed since this run was interrupted" in line
    line = pretrain_desk.refusal("pretrain", *words, *GO_ON, "--pretrain_lora_r", "8")
    assert "pretrain_lora_r" in line
    assert "cannot be made longer" in pretrain_desk.refusal("pretrain", *words, *GO_ON, "--max_steps", "12")
    assert "holds an interrupted run" in pretrain_desk.refusal("pretrain", *words)


@pytest.mark.parametrize("objective", ["distill", "dino"])
def test_two_processes_learn_like_one(pretrain_desk, pretrained, objective):
    options = ("--pretrain_drop_path", "0", "--pretrain_objective", objective)
    if objective == "dino":  # its spread and its centres are those of all processes together
        pytest.importorskip("lightly")
        options += ("--pretrain_local_size", "16", "--pretrain_local_crops", "2", "--pretrain_prototypes", "32")
    folder = pretrain_desk.folder / f"two-{objective}"
    shared = ("--output_dir", folder, "--per_device_train_batch_size", "4", "--ddp_backend", "gloo", *options)
    alone = pretrain_desk.folder / f"alone-{objective}"
    single = pretrain_desk.type("pretrain", pretrain_desk.pretrain_recipe, "--output_dir", alone, *options, **PLACES)
    assert single.status == 0, single.err
    done = pretrain_desk.type("pretrain", pretrain_desk.pretrain_recipe, *shared, processes=2, **PLACES)
    assert done.status == 0, done.err
    logs = [json.loads((run / "run.json").read_text())["log_history"] for run in (alone, folder)]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    one, two = (load_file(run / "milestones" / "step-000006" / "model.safetensors") for run in (alone, folder))
    loose = {"rtol": 1e-3, "atol": 1e-5 if objective == "distill" else 2e-3}  # AdamW makes rates of rounding errors
    for name in one:
        assert_close(one[name], two[name], **loose, msg=name)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--pretrain_lora_rank", "8"), "unknown key 'pretrain_lora_rank'; did you mean 'pretrain_lora_r'?"),
        (("--loss", "focal"), "unknown key 'loss'"),
        (("--unlabelled_name", "nowhere/"), "nowhere/: no such file or folder"),
        (("--pretrain_train", "some"), "invalid choice: 'some'"),
        (("--pretrain_heads_share", "1.5"), "expected a number from 0 to below 1"),
        (("--image_size", "40"), "image_size"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_leaves_nothing(pretrain_desk, words, line):
    output = pretrain_desk.folder / "never"
    told = pretrain_desk.refusal("pretrain", pretrain_desk.pretrain_recipe, "--output_dir", output, *words)
    assert line in told
    assert not output.exists()


def test_dino_without_its_extra_says_what_to_install(pretrain_desk):
    prelude = "import sys; sys.modules['lightly'] = None\nimport importlib.util as u\nfind = u.find_spec\n"
    prelude += "u.find_spec = lambda name, package=None: None if name == 'lightly' else find(name, package)"
    line = pretrain_desk.refusal(
        "pretrain", pretrain_desk.pretrain_recipe, "--pretrain_objective", "dino", prelude=prelude
    )
    assert 'pip install "natix_hf[pretrain]", or use --pretrain_objective distill' in line
