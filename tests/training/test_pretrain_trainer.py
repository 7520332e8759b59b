"""The loop of pretraining: heads first, exact resume, milestones that load everywhere, and the guard that ends it."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, TrainerCallback

from natix_hf import load_photos
from natix_hf.data.splits.unlabelled_pool import read_pool
from natix_hf.documents.pretraining import GuardRecord
from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import load_backbone, load_processor, local_folder
from natix_hf.photos.geometry import GEOMETRIES
from natix_hf.training.checkpoints import checkpoints
from natix_hf.training.pretrain.guard import effective_rank, linear_cka, mean_cosine, neighbour_distance
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretrain_trainer import PretrainTrainer, milestones
from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments
from natix_hf.training.pretrain.student import Student


@pytest.fixture
def pretraining(tiny_backbone, photo_folder, make_photos, tmp_path):
    """A function that builds a `PretrainTrainer`; keys that begin with `pretrain_` are options."""
    pool = make_photos(tmp_path / "pool", {"x": (20, 200, 90)}, 20, seed=3)

    def build(name="run", callbacks=(), base=tiny_backbone, **given):
        options = {
            "pretrain_objective": "distill",
            "pretrain_lora_r": 4,
            "pretrain_prototypes": 32,
            "pretrain_local_size": 16,
            "pretrain_local_crops": 2,
            "pretrain_drop_path": 0.0,
            "pretrain_heads_share": 0.25,
            "pretrain_milestones": 2,
            "pretrain_guard_photos": 16,
            "pretrain_guard_steps": 2,
            **{key: value for key, value in given.items() if key.startswith("pretrain_")},
        }
        arguments = {
            "learning_rate": 1e-3,
            "max_steps": 8,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "dataloader_num_workers": 0,
            "disable_tqdm": True,
            "use_cpu": True,
            **{key: value for key, value in given.items() if key not in options},
        }
        options = PretrainOptions(**options)
        args = PretrainingArguments(output_dir=str(tmp_path / name), **arguments)
        splits = load_photos(photo_folder).dedicate("pretrain")
        splits.add_pool(read_pool([str(pool)]))
        backbone = load_backbone(str(base))
        return PretrainTrainer(
            Student(backbone, options, seed=args.seed),
            args,
            options,
            splits=splits,
            processing_class=load_processor(str(base), GEOMETRIES["squash"](32)),
            base=str(base),
            base_config=AutoConfig.from_pretrained(local_folder(str(base))),
            callbacks=list(callbacks),
        )

    return build


def objectives():
    return ["distill", pytest.param("dino", marks=pytest.mark.skipif(not _lightly(), reason="lightly is missing"))]


def _lightly():
    import importlib.util

    return importlib.util.find_spec("lightly") is not None


class Watch(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})


@pytest.mark.parametrize("objective", objectives())
def test_heads_are_trained_alone_first_then_everything(pretraining, objective):
    watch = Watch()
    trainer = pretraining(pretrain_objective=objective, callbacks=[watch])
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert trainer.phases.heads == 2
    for name, before in start.items():
        alone, later = watch.weights[1][name], watch.weights[-1][name]
        if name.startswith("backbone."):
            assert torch.equal(alone, before), name
        else:
            assert not torch.equal(alone, before), name
        assert not torch.equal(later, alone), name


@pytest.mark.parametrize("objective", objectives())
def test_the_average_that_becomes_the_result_is_the_closed_form(pretraining, objective):
    watch = Watch()
    trainer = pretraining(pretrain_objective=objective, callbacks=[watch], pretrain_momentum=0.9)
    name = "backbone.norm.weight"
    wanted = dict(trainer.model.named_parameters())[name].detach().clone()
    trainer.train()
    for step, weights in enumerate(watch.weights):
        decay = 1 - 0.1 * (math.cos(math.pi * step / 7) + 1) / 2
        wanted = decay * wanted + (1 - decay) * weights[name]
    assert_close(load_file(milestones(trainer.args.output_dir)[-1] / "model.safetensors")["norm.weight"], wanted)


def test_milestones_are_plain_checkpoints_that_answer_as_the_average(pretraining, tiny_backbone):
    trainer = pretraining(pretrain_momentum=0.5)
    trainer.train()
    run = trainer.args.output_dir
    assert [path.name for path in milestones(run)] == ["step-000005", "step-000008"]
    last = milestones(run)[-1]
    model = AutoModel.from_pretrained(last).eval()
    with torch.no_grad():
        found = model(trainer.watched).pooler_output
    assert_close(found, torch.from_numpy(trainer.features()), rtol=1e-5, atol=1e-5)
    config, base = (json.loads((folder / "config.json").read_text()) for folder in (last, tiny_backbone))
    told = config.pop("lineage")
    assert {key: config[key] for key in base} == base
    assert told["photos"] == trainer.photos
    assert (last / "preprocessor_config.json").is_file()
    original, tuned = load_file(tiny_backbone / "model.safetensors"), load_file(last / "model.safetensors")
    assert original.keys() == tuned.keys()
    for name in ("embeddings.cls_token", "embeddings.register_tokens", "embeddings.patch_embeddings.weight"):
        assert torch.equal(original[name], tuned[name]), name


@pytest.mark.parametrize("objective", objectives())
def test_an_interrupted_run_goes_on_and_ends_like_the_undisturbed_one(pretraining, objective, stop_at):
    given = {"pretrain_objective": objective, "pretrain_drop_path": 0.2}
    whole = pretraining("whole", **given)
    whole.train()
    stopped = pretraining("stopped", callbacks=[stop_at(6)], **given)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert [path.name for path in checkpoints(stopped.args.output_dir)] == ["checkpoint-5"]
    again = pretraining("stopped", **given)
    torch.manual_seed(99)
    again.train(resume_from_checkpoint=True)
    for one, other in zip(milestones(whole.args.output_dir), milestones(again.args.output_dir), strict=True):
        first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
        for name in first:
            assert torch.equal(first[name], second[name]), name
    records = [GuardRecord.read(run.args.output_dir) for run in (whole, again)]
    assert records[0] == records[1]
    assert [look.step for look in records[0].looks] == [0, 2, 4, 6, 8]
    assert (records[0].looks[-1].teacher_entropy is None) == (objective == "distill")


def test_a_run_that_collapses_is_ended_with_the_milestone_to_go_back_to(pretraining, monkeypatch):
    trainer = pretraining(max_steps=12, pretrain_milestones=6, pretrain_heads_share=0.0)
    honest, calls = trainer.features, []

    def collapsing():
        calls.append(1)
        return honest() if len(calls) < 3 else np.ones((16, 32)) + 1e-3 * honest()

    trainer.guard.features = collapsing
    with pytest.raises(
        UserError, match=r"step 6: the features collapse: .* go back to .*milestones/step-000004; start"
    ):
        trainer.train()
    assert [look.step for look in GuardRecord.read(trainer.args.output_dir).looks] == [0, 2, 4, 6]


def test_a_rate_that_is_far_too_high_is_noticed(pretraining):
    trainer = pretraining(
        base="builtin:demo-backbone",  # whose features tell photos apart, as those of random weights do not
        learning_rate=0.1,
        pretrain_heads_share=0.0,
        pretrain_momentum=0.0,
        pretrain_guard_steps=1,
        pretrain_guard_photos=48,
        pretrain_train="full",
        max_steps=20,
    )
    with pytest.raises(UserError, match=r"the features collapse: their effective rank fell"):
        trainer.train()


def test_accumulated_steps_of_distill_are_those_of_one_large_batch(pretraining):
    def weights(**given):
        trainer = pretraining("run" + str(given["gradient_accumulation_steps"]), max_steps=3, **given)
        trainer.train()
        return load_file(milestones(trainer.args.output_dir)[-1] / "model.safetensors")

    one = weights(per_device_train_batch_size=8, gradient_accumulation_steps=1, pretrain_momentum=0.0)
    two = weights(per_device_train_batch_size=4, gradient_accumulation_steps=2, pretrain_momentum=0.0)
    for name in one:
        assert_close(one[name], two[name], rtol=1e-3, atol=1e-5, msg=name)


def test_activation_checkpointing_changes_nothing(pretraining):
    def weights(on):
        trainer = pretraining(f"run-{on}", max_steps=3, activation_checkpointing=on)
        trainer.train()
        return load_file(milestones(trainer.args.output_dir)[-1] / "model.safetensors")

    plain, checkpointed = weights(False), weights(True)
    for name in plain:
        assert_close(plain[name], checkpointed[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size: expected at least 2, found 1"),
        ({"per_device_train_batch_size": 500}, "form 4. groups, and a batch takes one photo of each"),
        ({"pretrain_objective": "dino", "pretrain_local_size": 8}, "pretrain_local_size: expected a multiple of"),
        (
            {"pretrain_objective": "dino", "gradient_accumulation_steps": 2},
            "stay batches of 8: leave it out with --gradient_accumulation_steps 1",
        ),
        ({"save_strategy": "best"}, "found best, but pretraining has no evaluation"),
    ],
)
def test_what_cannot_work_is_refused(pretraining, monkeypatch, given, line):
    if given.get("pretrain_objective") == "dino":
        pytest.importorskip("lightly")
    with pytest.raises(UserError, match=line):
        pretraining(**given)


def test_small_batches_of_dino_are_warned_about(pretraining, capsys):
    pytest.importorskip("lightly")
    pretraining(pretrain_objective="dino")
    assert "8 photos per step; dino is known to collapse with few" in capsys.readouterr().out


def test_effective_rank_counts_directions():
    eye = np.eye(8)
    assert effective_rank(eye) == pytest.approx(8)
    assert effective_rank(np.ones((20, 8))) == pytest.approx(1)
    assert effective_rank(np.diag([1.0, 1.0, 0, 0])) == pytest.approx(2)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


def test_distances_and_likeness():
    chance = np.random.default_rng(0)
    features = chance.normal(size=(30, 5))
    turned = features @ np.linalg.qr(chance.normal(size=(5, 5)))[0] * 3 + 7
    assert linear_cka(features, turned) == pytest.approx(1)
    assert linear_cka(features, chance.normal(size=(30, 5))) < 0.5
    assert mean_cosine(features, 2 * features) == pytest.approx(1)
    assert mean_cosine(features, -features) == pytest.approx(-1)
    assert neighbour_distance(np.ones((4, 3))) == pytest.approx(0)
    assert neighbour_distance(np.array([[1.0, 0], [2, 0], [0, 1], [0, 3]])) == pytest.approx(0)
    assert neighbour_distance(np.eye(4)) == pytest.approx(math.sqrt(2))
