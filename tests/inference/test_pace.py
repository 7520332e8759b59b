"""How predict goes over photos: what is quicker is taken, if it decides alike; never in more memory than there is."""

import multiprocessing
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from natix_hf import load_model
from natix_hf.inference import measured_pace as module
from natix_hf.inference.batches import client_pixels, logits_of, photo_batches
from natix_hf.inference.measured_pace import agrees, best_batch, choose_pace, first_pixels


@pytest.fixture
def clock(monkeypatch):
    """Time that only passes where a test says so."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.seconds)
    return now


@pytest.fixture
def model(tiny_backbone):
    return load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=32)[0].eval()


SAMPLE = torch.zeros(3, 3, 8, 8)


def machine(clock, *, start=0.01, photo=0.001, room=10**6):
    """A device that takes `start` seconds for a batch and `photo` for each photo, and holds `room` photos."""

    def run(pixels):
        if len(pixels) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        clock.seconds += start + photo * len(pixels)
        return np.zeros((len(pixels), 2))

    return run


def test_the_batch_is_doubled_while_the_rate_rises(clock):
    rates = {n: n / (0.01 + 0.001 * n) for n in (16, 32, 64, 128, 256)}
    expected = next(n for n in (16, 32, 64, 128) if rates[2 * n] < 1.05 * rates[n])
    size, rate = best_batch(machine(clock), SAMPLE)
    assert size == expected == 128
    assert rate == pytest.approx(rates[128])


def test_half_of_the_largest_batch_is_used_if_memory_runs_out(clock):
    assert best_batch(machine(clock, photo=1e-6, room=150), SAMPLE)[0] == 64
    assert best_batch(machine(clock, photo=1e-6, room=20), SAMPLE)[0] == 16
    with pytest.raises(torch.OutOfMemoryError):
        best_batch(machine(clock, room=10), SAMPLE)


def test_on_a_cpu_nothing_is_measured_by_default(model):
    pixels = torch.randn(4, 3, 32, 32)
    chosen = choose_pace(model, pixels, photos=10**6)
    assert (chosen.batch_size, chosen.line) == (16, None)
    np.testing.assert_array_equal(chosen.run(pixels), logits_of(model, pixels))
    assert choose_pace(model, pixels, photos=10, batch_size=3).batch_size == 3
    assert "fp32" in choose_pace(model, pixels, photos=10, precision="auto").line  # unless the precision is left open


@pytest.mark.parametrize(
    ("quicker", "alike", "rule", "precision", "name"),
    [
        (2.0, True, None, "auto", "bf16"),
        (2.0, True, None, "fp32", "fp32"),
        (1.05, True, None, "auto", "fp32"),
        (2.0, False, None, "auto", "fp32"),
        (2.0, True, {"abstain_band": [0.4, 0.6], "positive": 1, "threshold_bias": [0, 0]}, "auto", "fp32"),
        (2.0, True, {"abstain_band": None, "positive": 1, "threshold_bias": [0, 0.5]}, "auto", "bf16"),
    ],
)
def test_bf16_is_used_if_it_is_faster_decides_alike_and_there_is_no_guarantee(
    clock, model, monkeypatch, quicker, alike, rule, precision, name
):
    def seconds(pixels, factor=1.0):
        clock.seconds += (0.01 + 0.001 * len(pixels)) / factor
        return np.tile([1.0, 0.0], (len(pixels), 1))

    monkeypatch.setattr(module, "logits_of", lambda _, pixels: seconds(pixels))
    monkeypatch.setattr(module, "_in_bf16", lambda run, device: lambda p: seconds(p, quicker) * (1 if alike else -1))
    model.config.decision = rule
    chosen = choose_pace(model, SAMPLE, photos=100, precision=precision, measure=True)
    assert chosen.line.startswith(f"batches of 128, {name} (photos/s")
    assert ("bf16" in chosen.line) == (precision == "auto" and not (rule and rule["abstain_band"]))


def test_a_long_job_tries_compilation_and_a_short_one_does_not(clock, model, monkeypatch):
    monkeypatch.setattr(module, "logits_of", lambda _, pixels: machine(clock)(pixels))
    monkeypatch.setattr(module, "_padded", lambda model, size: machine(clock, photo=0.0002))
    rate = 128 / 0.138
    for seconds, tried in ((250, False), (350, True)):
        chosen = choose_pace(model, SAMPLE, photos=int(seconds * rate), precision="auto", measure=True)
        assert ("fp32 compiled" in chosen.line) == tried
        assert chosen.line.startswith(f"batches of 128, fp32{' compiled' * tried} (")


def test_bf16_really_runs_and_a_smaller_batch_is_filled_up_for_a_compiled_model(model, monkeypatch):
    pixels = torch.randn(5, 3, 32, 32)
    exact = logits_of(model, pixels)
    rounded = module._in_bf16(lambda p: logits_of(model, p), torch.device("cpu"))(pixels)
    assert 0 < np.abs(rounded - exact).max() < 0.2
    sizes = []
    monkeypatch.setattr(torch, "compile", lambda compiled: _Counting(compiled, sizes))
    run = module._padded(model, 4)
    np.testing.assert_allclose(run(pixels[:4]), exact[:4], atol=1e-5)
    np.testing.assert_allclose(run(pixels[:1]), exact[:1], atol=1e-5)
    assert sizes == [4, 4]


def test_photos_of_several_views_are_repeated_and_filled_up_alike(clock, tiny_backbone, monkeypatch):
    views = torch.randn(3, 5, 3, 32, 32)
    assert module.photo_rate(machine(clock), views, 8) == pytest.approx(8 / 0.018)
    tiled, _ = load_model(str(tiny_backbone), ["None", "Roadwork"], image_size=32, views="tiles", views_grid=2)
    monkeypatch.setattr(torch, "compile", lambda compiled: compiled)
    exact = logits_of(tiled.eval(), views)
    np.testing.assert_allclose(module._padded(tiled, 4)(views), exact, atol=1e-5)


class _Counting(torch.nn.Module):
    def __init__(self, model, sizes):
        super().__init__()
        self.model, self.sizes = model, sizes

    def forward(self, pixel_values):
        self.sizes.append(len(pixel_values))
        return self.model(pixel_values=pixel_values)


def test_agreement_is_of_every_decision_and_of_probabilities():
    exact = np.array([[0.0, 0.1], [3.0, 0.0]])
    assert agrees(exact, exact + np.array([[0.0, 0.02], [0.0, 0.0]]))
    assert not agrees(exact, exact - np.array([[0.0, 0.2], [0.0, 0.0]]))  # another decision
    assert not agrees(exact, exact + np.array([[0.0, 0.2], [0.0, 0.0]]))  # a probability that moved by 0.05


def test_the_sample_is_of_the_first_readable_photos(photo_folder, tiny_backbone, tmp_path):
    _, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=32)
    paths = sorted(str(path) for path in photo_folder.rglob("*.jpg"))
    (tmp_path / "broken.jpg").write_bytes(b"x")
    sample = first_pixels([str(tmp_path / "broken.jpg"), *paths[:3]], processor)
    assert torch.equal(sample, torch.stack([client_pixels(path, processor) for path in paths[:3]]))
    assert not len(first_pixels([str(tmp_path / "broken.jpg")], processor))


class _Counted:
    """Many photos that count how often one of them is read, in whatever process."""

    def __init__(self, path, count):
        self.path, self.count, self.read = path, count, multiprocessing.Value("i", 0)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        with self.read.get_lock():
            self.read.value += 1
        return self.path


def test_photos_are_read_a_few_batches_ahead_and_no_further(photo_folder, tiny_backbone):
    """Memory is that of the batches in flight: two of each worker, however many photos wait."""
    _, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=32)
    photos = _Counted(str(next(photo_folder.rglob("*.jpg"))), 4000)
    batches = photo_batches(photos, processor, batch_size=4, num_workers=2)
    for taken in (1, 2, 3):
        next(batches)
        time.sleep(0.5)  # enough to read hundreds
        assert photos.read.value <= 4 * (taken + 2 * 2)
    assert photos.read.value > 4 * 3
    batches.close()
