"""Trainings in processes of their own, whose imports are done, and pretraining on a few photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from warm import Result, Warm, plain_environment


@pytest.fixture(scope="session")
def launched(warm: Warm) -> Callable[..., Result]:
    """A function that runs a script, in one process or in several that train together, with its store in `home`."""

    def launch(script: Path, *words: str, home: Path, processes: int = 1) -> Result:
        home.mkdir(exist_ok=True)
        environment = {**plain_environment(), "OMP_NUM_THREADS": "1", "NATIX_HF_HOME": str(home)}
        return warm.run(script, words, environment, home, processes=processes)

    return launch


@pytest.fixture
def pretraining(tiny_backbone, photo_folder, make_photos, tmp_path):
    """A function that builds a `PretrainTrainer`; keys that begin with `pretrain_` are options.

    `photos` and `pool` are the places that it reads.
    """
    from transformers import AutoConfig

    from natix_hf import load_photos
    from natix_hf.data.splits.unlabelled_pool import read_pool
    from natix_hf.modeling.checkpoints import load_backbone, load_processor, local_folder
    from natix_hf.photos.geometry import GEOMETRIES
    from natix_hf.training.pretrain.pretrain_options import PretrainOptions
    from natix_hf.training.pretrain.pretrain_trainer import PretrainTrainer
    from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments
    from natix_hf.training.pretrain.student import Student

    strange = make_photos(tmp_path / "pool", {"x": (20, 200, 90)}, 20, seed=3)

    def build(name="run", callbacks=(), base=tiny_backbone, photos=photo_folder, pool=strange, **given):
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
        splits = load_photos(photos).dedicate("pretrain")
        splits.add_pool(read_pool([str(pool)], guides=list(options.guides())))
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
