"""The recipe: all options of a run, collected from the rooms that use them.

This module checks options of different rooms against each other. `yaml_and_command_line.py` reads them. Names follow
transformers' `TrainingArguments` and TRL's `ModelConfig` if these have the option.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_type_hints

from natix_hf.data.data_options import DataOptions
from natix_hf.decision.exit_options import check_exit
from natix_hf.errors import UserError
from natix_hf.hub.hub_options import HubOptions
from natix_hf.modeling.exports import FORMS
from natix_hf.modeling.model_options import LoraOptions, ModelOptions
from natix_hf.options import check_bounds
from natix_hf.recipe.transformers_files import early_arguments
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.purpose import PurposeOptions
from natix_hf.training.speed_options import SpeedOptions
from natix_hf.training.training_options import TrainingOptions

# Options of TrainingArguments that a recipe does not accept, each with the reason or the option to use instead.
REFUSED = {
    "fp16": "DINOv3 overflows to NaN in fp16; use bf16 or leave both out",
    "fp16_full_eval": "DINOv3 overflows to NaN in fp16; use bf16 or leave both out",
    "gradient_checkpointing": "it is called activation_checkpointing now",
    "gradient_checkpointing_kwargs": "it is called activation_checkpointing_kwargs now",
    "hub_token": "tokens come from the environment (HF_TOKEN) or the login of the hf command, never from a recipe",
    "remove_unused_columns": "it has no effect here, because the data set chooses the columns",
    "debug": "write --debug on the command line for a traceback",
}


@dataclass
class Recipe:
    """All options of a run, by topic.

    Attributes:
        command, does, example: the module that runs the recipe, what it does, and an example in the package.
        common: the keys that `--help` shows, by topic.

    Raises:
        UserError: options of two topics contradict each other.
    """

    command: ClassVar[str] = "natix_hf.train"
    does: ClassVar[str] = "Fine-tune a DINOv3 checkpoint on street photos, calibrate it and test it once."
    example: ClassVar[str] = "recipes/lora.yaml"

    common: ClassVar[dict[str, str]] = {
        "photos": "dataset_name group_column label_names positive_label image_size resize augment",
        "model": "model_name_or_path method lora_r",
        "training": "output_dir overwrite_output_dir resume_from_checkpoint num_train_epochs learning_rate "
        "per_device_train_batch_size loss seed use_cpu dataloader_num_workers",
        "afterwards": "target_prior threshold_metric risk risk_alpha push_to_hub",
    }

    model: ModelOptions
    lora: LoraOptions
    data: DataOptions
    decision: DecisionOptions
    speed: SpeedOptions
    purpose: PurposeOptions
    hub: HubOptions
    training: TrainingOptions  # `NatixTrainingArguments`

    @staticmethod
    def arguments_class(*, early: bool) -> type:
        """The class of `training`; `early`: a class with the same options, without checks and torch."""
        if early:
            return early_arguments(TrainingOptions)
        from natix_hf.training.training_arguments import NatixTrainingArguments

        return NatixTrainingArguments

    def __post_init__(self):
        for topic in (self.model, self.lora, self.data, self.decision, self.speed, self.purpose, self.hub):
            check_bounds(topic, type(topic))
        self._check_push()
        if self.data.test_on:
            self.data.hold_out_each = None  # a fold is not split into folds again
        if self.model.method == "probe" and self.data.augment == "basic" and not self.speed.fixed_views:
            self.data.augment = "none"  # a probe uses none, and recipe.yaml and the card must say so
        place = self.training.output_dir
        if place and self.purpose.refits and Path(place).absolute() == Path(self.purpose.refit_from).absolute():
            self.training.output_dir = f"{Path(place)}-refit"
        from natix_hf.training.check_training import check_training
        from natix_hf.training.losses.class_weights import class_weights

        model, data, speed = self.model, self.data, self.speed
        check_training(
            self.training,
            method=model.method,
            head=model.head,
            attn_implementation=model.attn_implementation,
            augment=data.augment,
            challenge_levels=data.challenge_levels,
            decode_copy=speed.decode_copy,
            fixed_views=speed.fixed_views,
            prefix_cache_gb=speed.prefix_cache_gb,
            use_doran=self.lora.use_doran,
            tiles=data.views_aggregate if data.views == "tiles" else None,
        )
        check_exit(
            self.decision,
            two_stages=data.views == "tiles",
            risk=self.decision.risk,
            risk_delta=self.decision.risk_delta,
            profiles=[self.decision.calibrate_on, *self.decision.robustness],
        )
        if self.training.class_weights and (names := self.data.label_names):
            class_weights(self.training.class_weights, [1] * len(names), names)

    def _check_push(self) -> None:
        """Raise `UserError` if the model could not be published as asked."""
        hub, model = self.hub, self.model
        if not hub.push_to_hub:
            return
        if self.purpose.kind in ("sweep", "range test"):
            raise UserError(f"push_to_hub: a {self.purpose.kind} makes no model to publish: add --push_to_hub false")
        if self.data.hold_out_each and not self.data.test_on:
            raise UserError(
                "push_to_hub: hold_out_each makes several runs: publish one of them with natix_hf.publish and set "
                "--push_to_hub false here"
            )
        form = FORMS.get(hub.hub_format)  # None: auto
        if form and model.method not in form.holds.get("method", [model.method]):
            raise UserError(
                f"hub_format: {hub.hub_format} needs method {' or '.join(form.holds['method'])}, found "
                f"{model.method}: leave it out with --hub_format auto"
            )
        if hub.hotkey is not None and hub.hub_format not in ("auto", "stock"):
            raise UserError(
                f"hotkey: StreetVision's clients load only stock models, but hub_format is {hub.hub_format}: set "
                "--hub_format auto, or remove the hotkey with --hotkey null"
            )
        why = f"hub_format: {hub.hub_format}"
        if form is None and hub.hotkey is not None:
            form, why = FORMS["stock"], "hotkey: StreetVision's stock model"
        can = form.holds if form else {}
        has = vars(model) | {"views": self.data.views}
        odd = {key: values[0] for key, values in can.items() if has[key] not in values}
        if odd:
            held = " and ".join(f"{key}: {has[key]}" for key in odd)
            words = " ".join(f"--{key} {value}" for key, value in odd.items())
            raise UserError(f"{why} cannot hold {held}: change it with {words}, or --hub_format auto --hotkey null")


def topics_of(kind: type, *, early: bool = False) -> tuple[type, ...]:
    """The dataclasses of a recipe class, the training arguments last.

    Args:
        early: use the early class for the training arguments, see `arguments_class`.
    """
    hints = get_type_hints(kind)
    *topics, _ = (hints[field.name] for field in dataclasses.fields(kind))
    return (*topics, kind.arguments_class(early=early))
