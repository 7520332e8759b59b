import json
import weakref

import pytest
import torch
from transformers import TrainerCallback

from natix_hf import finish_run, train_run
from natix_hf.documents.run_speed import PassSpeed, RunSpeed, Speed
from natix_hf.runs.finish_run import run_lines
from natix_hf.training import accounting
from natix_hf.training.bottleneck import bottleneck, speed_lines


@pytest.fixture
def products(tiny_backbone):
    """Operations of the matrix products of one photo of 32 pixels: `(patches in, one block)`."""
    config = json.loads((tiny_backbone / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    patches = (32 // config["patch_size"]) ** 2
    tokens = 1 + config["num_register_tokens"] + patches
    # Four projections and two products of attention, the MLP.
    block = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    return 2 * patches * width * 3 * config["patch_size"] ** 2, block, config


def test_counted_operations_are_those_of_the_architecture_and_training_sees_nothing_of_it(job, products):
    trainer = job("full", lora_dropout=0.0)
    embedding, block, config = products
    forward = embedding + config["num_hidden_layers"] * block + 2 * config["hidden_size"] * 2  # and the head
    before = torch.random.get_rng_state()
    weights = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.count_operations()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, weights[n]) and p.grad is None for n, p in trainer.model.named_parameters())
    # Backward takes twice as much, but no gradient goes into the photo; flash attention computes its scores once more.
    assert trainer.accounting.flop == pytest.approx(3 * forward - embedding, rel=0.02)


def test_a_run_says_where_its_time_went(job, tmp_path):
    class Slow(TrainerCallback):
        pass

    trainer = job(num_train_epochs=1, callbacks=[Slow()])
    train_run(trainer)
    metrics = finish_run(trainer)
    record = RunSpeed.read(tmp_path / "run").plain()
    speed = record["speed"]
    assert speed["photos"] == trainer.splits.sizes["train"]
    assert speed["photos_per_second"] > 0
    assert speed["peak_flop_per_second"] is None  # seconds of training are not worth the measurement
    lines = run_lines(trainer, metrics)
    assert any(line.startswith("speed: ") for line in lines)
    assert any(line.startswith("a photo costs 1 view of 32 x 32 px, 9 tokens, ") for line in lines)


def test_waiting_for_data_is_what_fetching_took(job):
    import time

    trainer = job(num_train_epochs=1, eval_strategy="no", save_strategy="no")
    real = trainer.train_dataset.__class__.__getitem__

    def slow(self, key):
        time.sleep(0.02)
        return real(self, key)

    trainer.train_dataset.__class__.__getitem__ = slow
    try:
        train_run(trainer)
    finally:
        trainer.train_dataset.__class__.__getitem__ = real
    assert trainer.accounting.waited >= 0.02 * trainer.splits.sizes["train"]
    document = trainer.accounting.document()
    assert document.waiting > 0.15
    assert document.bottleneck.startswith("training waited for data")


@pytest.mark.parametrize(
    ("rates", "times", "said"),
    [
        ({"waiting": 0.4, "beside": 0.1, "share_of_peak": 0.3}, {"train": 10}, "waited for data 40%"),
        ({"waiting": 0.0, "beside": 0.6, "share_of_peak": 0.3}, {"train": 10, "predict": 15}, "the phase predict"),
        (
            {"waiting": 0.0, "beside": 0.6, "share_of_peak": 0.3},
            {"train": 20, "predict": 1},
            "evaluations and checkpoints",
        ),
        ({"waiting": 0.0, "beside": 0.1, "share_of_peak": 0.3}, {"train": 10}, "ran at 30% of this machine"),
        ({"waiting": 0.0, "beside": 0.1, "share_of_peak": 0.8}, {"train": 10}, "the model itself"),
    ],
)
def test_the_bottleneck_is_the_largest_loss_of_time(rates, times, said):
    assert said in bottleneck(Speed(**rates, peak_memory_mib=1.0, bottleneck=""), times)


@pytest.mark.parametrize(
    ("times", "waiting", "said"),
    [
        (
            {"photos": 60, "features": 30, "train": 5},
            0.0,
            "63% of the time was spent on the phase photos, which opens and",
        ),
        (
            {"photos": 6, "features": 30, "train": 5},
            0.4,
            "waited for photos to be decoded 40% of the time: raise datal",
        ),
        (
            {"photos": 6, "features": 30, "train": 5},
            0.0,
            "the pass of 90 photos through the frozen backbone; the result is c",
        ),
        ({"photos": 6, "features": 3, "train": 50}, 0.0, "training the grid of heads: use fewer probe_learning_rates"),
        ({"photos": 6, "features": 3, "train": 5, "report": 9}, 0.0, "39% of the time was spent on the phase report"),
    ],
)
def test_the_bottleneck_of_a_grid_is_its_longest_phase_and_how_to_shorten_it(times, waiting, said):
    passed = PassSpeed(
        photos=90,
        served=0,
        seconds=30.0,
        photos_per_second=3.0,
        waiting=waiting,
        flop_per_photo=None,
        flop_per_second=None,
        share_of_peak=None,
    )
    assert said in bottleneck(Speed(passes={"features": passed}, peak_memory_mib=1.0, bottleneck=""), times)


def finished(trainer, folder):
    train_run(trainer)
    lines = "\n".join(run_lines(trainer, finish_run(trainer)))
    record = RunSpeed.read(folder).plain()
    return record, lines


def test_a_grid_of_heads_tells_the_passes_of_its_backbone_and_the_next_what_it_was_spared(
    job, products, tmp_path, monkeypatch
):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "home"))
    grid = {"probe_heads": "grid", "probe_learning_rates": [0.1], "num_train_epochs": 1}
    first = job("probe", name="first", **grid)
    photos = sum(first.splits.sizes[name] for name in ("train", "val_select", "val_calib", "val_test"))
    record, lines = finished(first, tmp_path / "first")
    told = record["speed"]["passes"]["features"]
    assert (told["photos"], told["served"]) == (photos, 0)
    embedding, block, config = products
    assert told["flop_per_photo"] == pytest.approx(embedding + config["num_hidden_layers"] * block, rel=1e-6)
    assert told["flop_per_second"] == pytest.approx(told["flop_per_photo"] * photos / told["seconds"], rel=0.05)
    assert told["share_of_peak"] is None  # seconds are not worth the measurement
    assert 0 < record["time"]["features"] < sum(record["time"].values())
    assert f"speed: {photos} photos through the frozen backbone, " in lines
    assert "waiting for data; 0 read from the cache" in lines
    assert "  bottleneck: " in lines
    assert "  seconds: " in lines

    record, lines = finished(job("probe", name="second", **grid), tmp_path / "second")
    told = record["speed"]["passes"]["features"]
    assert (told["photos"], told["served"], told["photos_per_second"]) == (0, photos, None)
    assert f"speed: 0 photos through the frozen backbone; {photos} read from the cache" in lines


def test_the_pass_that_fills_the_prefix_cache_is_reported_beside_training(job, products, tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "home"))
    trainer = job(lora={"lora_last_blocks": 1}, speed={"fixed_views": 2, "prefix_cache_gb": 1.0})
    sizes = trainer.splits.sizes
    record, lines = finished(trainer, tmp_path / "run")
    told = record["speed"]["passes"]["prefixes"]
    assert told["photos"] == 2 * sizes["train"] + sizes["val_select"]
    embedding, block, config = products
    assert told["flop_per_photo"] == pytest.approx(embedding + (config["num_hidden_layers"] - 1) * block, rel=1e-6)
    assert record["speed"]["photos"] == 2 * sizes["train"]  # two epochs
    assert f"  {told['photos']} photos through the blocks below the cut" in lines
    assert "photos/s in training" in lines


def test_curriculum_and_warm_start_share_one_pass(job, tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "home"))
    trainer = job(curriculum="loss", warm_start="probe", probe_epochs=1)
    passed = trainer.source.passes["features"]
    assert passed.photos == trainer.splits.sizes["train"] + trainer.splits.sizes["val_select"]
    assert passed.served == 0  # what this run computed itself was spared by no cache
    assert {"curriculum", "warm_start"} <= trainer.times.keys()


def test_the_share_of_the_peak_is_that_of_the_forward_passes(job, tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "home"))
    asked = []
    monkeypatch.setattr(accounting, "WORTH_A_PEAK", 0.0)
    monkeypatch.setattr(accounting, "measured_peak", lambda device, kind, seen: asked.append(kind) or 1e12)
    trainer = job("probe", probe_heads="grid", probe_learning_rates=[0.1], num_train_epochs=1)
    train_run(trainer)
    passed = trainer.source.passes["features"]
    told = trainer.accounting.document().passes["features"]
    assert told.share_of_peak == pytest.approx(passed.flop / passed.seconds / 1e12)
    assert asked == [torch.float32]


def test_measuring_a_peak_leaves_the_random_state_alone(monkeypatch):
    monkeypatch.setattr(accounting, "PEAK_SECONDS", 0.0)
    before = torch.random.get_rng_state()
    accounting._peak(torch.device("cpu"), torch.float32, False)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("content", ["[]", "{", '{"cpu": 1}'])
def test_a_peak_is_measured_where_none_is_kept_or_can_be_kept(tmp_path, monkeypatch, content):
    monkeypatch.setattr(accounting, "_peak", lambda *_: 5.0)
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path))
    (tmp_path / "peak.json").write_text(content)
    assert accounting.measured_peak(torch.device("cpu"), torch.float32) == 5.0
    assert 5.0 in json.loads((tmp_path / "peak.json").read_text()).values()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path / "file"))
    assert accounting.measured_peak(torch.device("cpu"), torch.float32) == 5.0


def test_a_run_that_was_faster_than_the_peak_has_it_measured_again_and_no_share_above_one_is_reported(
    tmp_path, monkeypatch
):
    device, measured = torch.device("cpu"), iter([5.0, 20.0, 4.0])
    monkeypatch.setattr(accounting, "_peak", lambda *_: next(measured))
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path))
    assert accounting.measured_peak(device, torch.float32) == 5.0  # while others kept the machine busy
    assert accounting.measured_peak(device, torch.float32, seen=8.2) == 20.0
    assert accounting.measured_peak(device, torch.float32, seen=8.2) == 20.0
    assert accounting.measured_peak(device, torch.float32, seen=33.0) == 20.0  # still busy: the larger one is kept
    speed = {"photos_per_second": 9.0, "flop_per_second": 33.0, "waiting": 0.0, "peak_memory_mib": 1.0}
    line = speed_lines(Speed(**speed, share_of_peak=33 / 20, bottleneck="it"))[0]
    assert "%" not in line.replace("0% of the time waiting", "")
    assert "above this machine's measured matrix-product speed" in line
    assert "(80% of the machine" in speed_lines(Speed(**speed, share_of_peak=0.8, bottleneck="it"))[0]


def test_where_nothing_was_timed_nothing_is_said(job):
    trainer = job()
    trainer.times.clear()
    assert trainer.accounting.document() is None
    assert speed_lines(None) == []


def test_what_a_step_keeps_is_counted_once_a_storage_and_without_weights():
    """Of float32: the input (3, 4) for the first weight, and one (3, 8) that ReLU and the second layer share."""
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with accounting.kept_for_backward(layers) as kept:
        found = layers(torch.randn(3, 4))
    assert sum(kept.values()) == 4 * (3 * 4 + 3 * 8)
    found.sum().backward()
    with accounting.kept_for_backward(layers) as kept, torch.no_grad():
        layers(torch.randn(3, 4))
    assert not kept


def test_what_is_counted_is_let_go_and_a_later_storage_at_its_address_counts_too():
    doubling = torch.nn.Linear(64, 64, bias=False)
    with accounting.kept_for_backward(doubling) as kept:
        first = torch.randn(512, 64)
        said = doubling(first)
        gone = weakref.ref(first)
        del first
        assert gone() is None
        for _ in range(20):  # addresses come again
            said = doubling(said)
    assert sum(kept.values()) == 21 * 4 * 512 * 64
    said.sum().backward()  # finds zeros
    assert torch.equal(doubling.weight.grad, torch.zeros(64, 64))
