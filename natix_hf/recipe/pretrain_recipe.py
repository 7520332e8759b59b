"""The pretraining recipe: all its options, collected from the rooms that use them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from natix_hf.data.data_options import PLAN_KEYS, SOURCE_KEYS, DataOptions
from natix_hf.modeling.model_options import ModelOptions
from natix_hf.options import some_of
from natix_hf.recipe.transformers_files import early_arguments
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretraining_options import PretrainLoopOptions, fewer
from natix_hf.training.speed_options import SpeedOptions
from natix_hf.training.training_options import TrainingOptions

_DATA = [key for key in (*SOURCE_KEYS, *PLAN_KEYS) if key != "trust_remote_code"]
Backbone = some_of(ModelOptions, "model_name_or_path", "model_revision", "trust_remote_code", "attn_implementation")
Photos = some_of(
    DataOptions, "dataset_name", *_DATA, "positive_label", "image_size", "resize", "preprocessing_num_workers"
)
Cache = some_of(SpeedOptions, "cache_dir", "cache_gb")


@dataclass
class PretrainRecipe:
    """All options of pretraining, by topic.

    Attributes:
        command, does, example, common: as in `Recipe`.
    """

    command: ClassVar[str] = "natix_hf.pretrain"
    does: ClassVar[str] = (
        "Pretrain a DINOv3 backbone on your own photos; a probe on held-out photos chooses the weights to keep."
    )
    example: ClassVar[str] = "recipes/explora.yaml"

    common: ClassVar[dict[str, str]] = {
        "photos": "dataset_name unlabelled_name unlabelled_by_folder group_column label_names positive_label "
        "image_size resize",
        "pretraining": "model_name_or_path pretrain_objective pretrain_train pretrain_lora_r pretrain_last_blocks "
        "pretrain_milestones pretrain_guard_steps forgetting_name",
        "training": "output_dir overwrite_output_dir resume_from_checkpoint num_train_epochs max_steps learning_rate "
        "per_device_train_batch_size use_cpu dataloader_num_workers",
    }

    model: Backbone
    data: Photos
    pretraining: PretrainOptions
    speed: Cache
    training: PretrainLoopOptions  # `PretrainingArguments`

    @staticmethod
    def arguments_class(*, early: bool) -> type:
        """As in `Recipe`."""
        if early:
            bases = (PretrainLoopOptions, fewer(early_arguments(TrainingOptions)))
            return dataclasses.make_dataclass("EarlyPretrainingArguments", [], bases=bases)
        from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments

        return PretrainingArguments
