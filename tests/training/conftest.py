"""A small job on tiny photos and a tiny backbone, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def job(tiny_backbone: Path, photo_folder: Path, tmp_path: Path):
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
        splits = splits or load_photos(dataset or photo_folder)
        lora = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": settings.pop("lora_dropout", 0.1)}
        lora |= settings.pop("lora", {})
        options = settings.pop("model_options", {})
        speed = settings.pop("speed", {})
        model, processor = load_model(
            str(tiny_backbone), splits.label_names, method=method, image_size=32, lora=lora, **options
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
