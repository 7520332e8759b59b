"""Training from kept activations is training on the same fixed views, quicker."""

import json

import numpy as np
import pytest
import torch

from natix_hf import UserError, finish_run, load_model, load_photos, train_run
from natix_hf.documents.run_record import Prefix, RunRecord
from natix_hf.inference.batches import client_pixels
from natix_hf.training.prefix import MOST_VIEWS, plan_prefix, prefix_drift, prefix_states, trained_blocks

SETTINGS = {
    "lora": {"lora_last_blocks": 1, "lora_dropout": 0.0},
    "lora_dropout": 0.0,
    "num_train_epochs": 3,
    "eval_strategy": "epoch",
}


def trainable(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("more", [{}, {"use_doran": True, "doran_share": "block"}], ids=["lora", "doran"])
def test_a_cached_run_equals_the_uncached_one_on_the_same_views(job, losses, more):
    settings = SETTINGS | {"lora": SETTINGS["lora"] | more}
    plain = job(name="plain", speed={"fixed_views": 2}, **settings)
    plain.train()
    cached = job(name="cached", speed={"fixed_views": 2, "prefix_cache_gb": 1.0}, **settings)
    assert cached.source.prefix.precision == "float32"
    assert cached.source.prefix.views == 2
    passes = []
    first = cached.plain_model().backbone.model.layer[0]
    first.register_forward_hook(lambda *_: passes.append(1))
    cached.train()
    assert not passes  # nothing below the cut ran
    np.testing.assert_allclose(losses(cached), losses(plain), atol=1e-4)
    ours, theirs = trainable(cached), trainable(plain)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4, msg=name)
    scored = [[e["eval_log_loss"] for e in t.state.log_history if "eval_log_loss" in e] for t in (cached, plain)]
    np.testing.assert_allclose(*scored, atol=1e-4)
    # What is predicted at the end runs the whole model.
    rows = cached.splits.rows("selection", step="predictions")
    np.testing.assert_allclose(cached.logits(rows), plain.logits(rows), atol=1e-4)
    assert passes


def test_a_cached_wide_run_equals_the_uncached_one(job, losses):
    wide = {**SETTINGS, "num_train_epochs": 2, "image_size": [32, 64]}
    plain = job(name="plain", speed={"fixed_views": 1}, **wide)
    plain.train()
    cached = job(name="cached", speed={"fixed_views": 1, "prefix_cache_gb": 1.0}, **wide)
    cached.train()
    assert cached.train_dataset[1, 3]["prefix_states"].shape[0] == 5 + 2 * 4  # class token, registers, patches
    np.testing.assert_allclose(losses(cached), losses(plain), atol=1e-4)
    ours, theirs = trainable(cached), trainable(plain)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4, msg=name)
    rows = cached.splits.rows("selection", step="predictions")
    np.testing.assert_allclose(cached.logits(rows), plain.logits(rows), atol=1e-4)


def test_a_second_run_computes_nothing_below_the_cut(job, monkeypatch):
    speed = {"fixed_views": 1, "prefix_cache_gb": 1.0}
    job(name="first", speed=speed, **SETTINGS)
    from natix_hf.training import prefix

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(prefix, "prefix_states", refuse)
    job(name="second", speed=speed, **SETTINGS)


def test_bf16_halves_the_place_and_its_drift_is_told(job, capsys):
    one = job(name="exact", speed={"fixed_views": 2, "prefix_cache_gb": 1.0}, **SETTINGS)
    capsys.readouterr()
    small = one.source.prefix.gigabytes * 0.6
    two = job(name="rounded", speed={"fixed_views": 2, "prefix_cache_gb": small}, **SETTINGS)
    assert two.source.prefix.precision == "bfloat16"
    assert two.source.prefix.gigabytes == pytest.approx(one.source.prefix.gigabytes / 2)
    said = capsys.readouterr().out
    assert "2 fixed views per photo, bfloat16" in said
    assert "bf16 changes the features by" in said
    assert 0 < two.source.drift < 0.05
    exact, rounded = (t.train_dataset[1, 3]["prefix_states"] for t in (one, two))
    assert torch.equal(rounded, exact.bfloat16().float())


def test_what_was_kept_and_its_drift_stand_in_the_record_and_on_the_card(job, tmp_path):
    exact = job(name="exact", speed={"fixed_views": 2, "prefix_cache_gb": 1.0}, **SETTINGS)
    assert exact.source.prefix_document() == Prefix(**vars(exact.source.prefix), drift=None)
    small = exact.source.prefix.gigabytes * 0.6
    rounded = job(name="rounded", speed={"fixed_views": 2, "prefix_cache_gb": small}, **SETTINGS)
    train_run(rounded)
    finish_run(rounded)
    record = json.loads((tmp_path / "rounded" / "run.json").read_text())
    RunRecord.check(record)
    assert record["prefix"] == {
        "blocks": 1,
        "views": 2,
        "precision": "bfloat16",
        "gigabytes": pytest.approx(exact.source.prefix.gigabytes / 2),
        "drift": rounded.source.drift,
    }
    assert (
        f"changes features by {rounded.source.drift:.2%} of their spread"
        in (tmp_path / "rounded" / "README.md").read_text()
    )


def test_the_drift_is_that_of_rounding_by_hand(job):
    trainer = job(speed={"fixed_views": 1, "prefix_cache_gb": 1.0}, **SETTINGS)
    rows, plain = trainer.splits.rows("selection", step="predictions"), trainer.plain_model()
    found = prefix_drift(trainer.model, rows, trainer.processing_class, 1, photos=4)
    pixels = torch.stack([client_pixels(row["image"], trainer.processing_class) for row in rows.select(range(4))])
    plain.eval()
    plain.last_blocks, plain.prefix_size = 1, (32, 32)
    with torch.inference_mode():
        states = prefix_states(plain, pixels, 1)
        features = [
            plain(prefix_states=given, output_features=True).features.numpy()
            for given in (states, states.to(torch.bfloat16).to(torch.float32))
        ]
    spread = np.sqrt(((features[0] - features[0].mean(axis=0)) ** 2).mean())
    assert found == pytest.approx(np.sqrt(((features[1] - features[0]) ** 2).mean()) / spread, rel=1e-4)
    assert found > 0


def test_states_at_the_cut_give_the_features_of_the_whole_model(tiny_backbone):
    for pooling, layers in (("cls", 1), ("cls_mean", 2)):
        model, _ = load_model(
            str(tiny_backbone), ["a", "b"], method="full", image_size=32, pooling=pooling, feature_layers=layers
        )
        model.eval()
        for model.prefix_size in ((32, 32), (32, 64), (64, 16)):
            pixels = torch.randn(3, 3, *model.prefix_size)
            with torch.inference_mode():
                whole = model(pixels, output_features=True)
                for model.last_blocks in (1, 2):
                    states = prefix_states(model, pixels, model.last_blocks)
                    found = model(prefix_states=states, output_features=True)
                    torch.testing.assert_close(found.features, whole.features)


def test_the_plan_takes_views_before_precision_and_never_passes_the_budget():
    facts = {"blocks": 3, "layers": 12, "values": 1_000_000, "photos": 100, "scored": 50, "epochs": 3}
    gigabytes = (3 * 100 + 50) * 4e6 / 1e9
    assert plan_prefix(gigabytes, **facts) == plan_prefix(100, **facts)
    assert plan_prefix(100, **facts).views == 3
    less = plan_prefix(gigabytes * 0.99, **facts)
    assert (less.precision, less.views) == ("bfloat16", 3)
    fewer = plan_prefix(0.5, **facts)
    assert (fewer.precision, fewer.views) == ("bfloat16", 2)
    assert fewer.gigabytes <= 0.5
    assert plan_prefix(100, **{**facts, "epochs": 50}).views == MOST_VIEWS
    assert plan_prefix(100, **facts, augmented=False).views == 1
    with pytest.raises(UserError, match=r"prefix_cache_gb: expected at least 0\.3, found 0\.2, for 1 view"):
        plan_prefix(0.2, **facts)
    with pytest.raises(UserError, match=r"prefix_cache_gb: expected at least 2\.1, found 1, for 10 view"):
        plan_prefix(1, **facts, views=10)
    with pytest.raises(UserError, match="all 12 blocks are trained"):
        plan_prefix(100, **{**facts, "blocks": 12})


def test_the_cut_lies_below_everything_that_is_trained(tiny_backbone):
    def blocks(method, **lora):
        return trained_blocks(load_model(str(tiny_backbone), ["a", "b"], method=method, image_size=32, lora=lora)[0])

    layers = json.loads((tiny_backbone / "config.json").read_text())["num_hidden_layers"]
    assert blocks("lora") == layers
    assert blocks("lora", lora_last_blocks=1) == 1
    assert blocks("probe") == 0
    with pytest.raises(UserError, match="embeddings are trained"):
        blocks("full")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "probe"}, "prefix_cache_gb: method probe caches its features"),
        ({"mixup_alpha": 0.2}, "prefix_cache_gb: mixup_alpha mixes pixels"),
        ({"speed": {"prefix_cache_gb": 1.0, "decode_copy": True}}, "prefix_cache_gb: decode_copy is for photos"),
        ({"speed": {"prefix_cache_gb": -1.0}}, "prefix_cache_gb: expected .*, found -1.0"),
        ({"speed": {"fixed_views": -1}}, "fixed_views: expected .*, found -1"),
        ({"lora": {}}, "blocks are trained, so no activations can be cached"),
    ],
)
def test_settings_that_leave_nothing_to_keep_are_refused(job, changes, said):
    settings = {"speed": {"prefix_cache_gb": 1.0}, **SETTINGS, **changes}
    with pytest.raises(UserError, match=said):
        job(settings.pop("method", "lora"), **settings)


def test_photos_of_another_run_are_not_confused(job, photo_folder, tmp_path):
    speed = {"fixed_views": 1, "prefix_cache_gb": 1.0}
    one = job(name="one", speed=speed, splits=load_photos(photo_folder), **SETTINGS)
    other = job(name="other", speed=speed, splits=load_photos(photo_folder), **SETTINGS, seed=7)
    assert not torch.equal(one.train_dataset[0, 0]["prefix_states"], other.train_dataset[0, 0]["prefix_states"])
    np.testing.assert_array_equal(  # scored photos have no chance in them
        one.eval_dataset[0]["prefix_states"], other.eval_dataset[0]["prefix_states"]
    )
