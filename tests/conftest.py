"""What all tests share: one thread per worker, no network, tiny checkpoints and photos made on the spot."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Set before torch is imported: two pytest workers on two cores must not fight over threads, and nothing may reach the
# Hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRACKIO_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest
from hub_server import serve
from hub_state import Hub
from PIL import Image
from warm import Warm

from natix_hf.startup import fork_workers

fork_workers()  # as every command does


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of folders that are not there yet. `mktemp` would look through all that earlier tests made."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine-wide store (feature cache, count of test reads) of a test is its own."""
    monkeypatch.setenv("NATIX_HF_HOME", str(next(homes)))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random DINOv3 of 2 layers, 32 wide, 4 registers, 32 px photos, and its image processor."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    folder = tmp_path_factory.mktemp("tiny-backbone")
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_register_tokens=4,
        patch_size=16,
        image_size=32,
        layerscale_value=1.0,
    )
    DINOv3ViTModel(config).save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_photos(folder: Path, classes: dict[str, tuple[int, int, int]], count: int, seed: int = 0) -> Path:
    """Class folders of `count` JPEGs each (64x48): noise around the class's colour."""
    rng = np.random.default_rng(seed)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(colour, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `None` and `Roadwork` with 24 photos each; the classes differ in colour. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    return write_photos(folder, {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 24)


@pytest.fixture
def photo_folder(drawn_photos: Path, tmp_path: Path) -> Path:
    """A copy of `drawn_photos` that a test may change."""
    return shutil.copytree(drawn_photos, tmp_path / "photos")


@pytest.fixture(scope="session")
def drawn_cut(drawn_photos: Path):
    """The four splits of `drawn_photos`; each job locks them anew."""
    from natix_hf.data.load_photos import split_photos

    return split_photos([drawn_photos])


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A process that has done its imports and runs commands in children of its own, see `warm`."""
    with Warm(HF_HOME=str(tmp_path_factory.mktemp("hub"))) as process:
        yield process


@pytest.fixture(scope="session")
def make_photos():
    """The function that writes class folders, for tests that need other classes or counts."""
    return write_photos


@pytest.fixture
def loopback_hub() -> Iterator[Hub]:
    """A Hub on this machine, see `hub_server`; `repositories` holds what was pushed."""
    with serve() as hub:
        yield hub


@pytest.fixture
def job(tiny_backbone: Path, drawn_cut, tmp_path: Path):
    """A function that builds a `NatixTrainer`: `job(method, splits=..., callbacks=..., **training_arguments)`."""

    def build(method="lora", name="run", splits=None, callbacks=None, augment=None, dataset=None, **arguments):
        from natix_hf import NatixTrainer, NatixTrainingArguments, load_model, load_photos

        settings = {
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "dataloader_num_workers": 0,
            "disable_tqdm": True,
            "use_cpu": True,
            **arguments,
        }
        splits = splits or (drawn_cut.lock() if dataset is None else load_photos(dataset))
        lora = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": settings.pop("lora_dropout", 0.1)}
        lora |= settings.pop("lora", {})
        options = settings.pop("model_options", {})
        speed = settings.pop("speed", {})
        size = settings.pop("image_size", 32)
        model, processor = load_model(
            str(tiny_backbone), splits.label_names, method=method, image_size=size, lora=lora, **options
        )
        return NatixTrainer(
            model,
            NatixTrainingArguments(output_dir=str(tmp_path / name), **settings),
            splits=splits,
            processing_class=processor,
            augment=augment or ("none" if method == "probe" else "basic"),
            callbacks=callbacks,
            **speed,
        )

    return build


@pytest.fixture
def losses():
    """The training losses in a trainer's log."""
    return lambda trainer: [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def stop_at():
    """A callback that ends the process's part in training at a step, as Ctrl-C would."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == self.step:
                raise KeyboardInterrupt

    return Stop
