"""The training arguments: `transformers.TrainingArguments` with our defaults, options and checks.

Options keep the name that the parent has for them. The other modules of `training/` act on them. Options of other
topics are declared next to the code that reads them, and `recipe/` combines all of them.
"""

import math
import os
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from natix_hf.errors import UserError
from natix_hf.options import check_bounds
from natix_hf.training.losses import LOSSES
from natix_hf.training.optimizers import OPTIMIZERS
from natix_hf.training.training_options import SCORES, TrainingOptions

# Optimizers that may be sam_base.
SAM_BASES = tuple(
    name for name in (*OPTIMIZERS, *OptimizerNames) if name not in OPTIMIZERS or OPTIMIZERS[name].under_sam
)


# -- a sharded model (FSDP), which the launcher requests through the environment --------------------------------------

LAUNCH = (
    "accelerate launch --config_file recipes/accelerate/multi_gpu.yaml gives every GPU the whole model (DDP), "
    "fsdp2.yaml gives each a piece of it (FSDP)"
)
# Variable of the launcher -> accelerate's default, the only value that is supported, and why.
FSDP_SETTINGS = {
    "FSDP_VERSION": ("1", "2", "FSDP1 is untested"),
    "FSDP_STATE_DICT_TYPE": ("SHARDED_STATE_DICT", "FULL_STATE_DICT", "a checkpoint holds whole tensors"),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("false", "false", "accelerate cannot pass on the buffers of the head"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false", "offloading to the CPU is untested"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "false", "set activation_checkpointing: true in the recipe instead"),
    "FSDP_IGNORED_MODULES": ("", "", "each process would train these on its own"),
}
FSDP_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd")
# Option -> the value that turns it off.
FSDP_REFUSED = {
    "torch_compile": False,
    "warm_start": "none",
    "probe_heads": "one",
    "auto_find_batch_size": False,
    "save_only_model": False,
}


def word(value: str) -> str:
    """The value of an argument as typed; transformers converts some of them to enums."""
    return str(getattr(value, "value", value))


@dataclass
class NatixTrainingArguments(TrainingOptions, TrainingArguments):
    """`transformers.TrainingArguments` with defaults for fine-tuning vision transformers, plus EMA and early stopping.

    Differences from the parent: evaluates and saves every epoch, keeps the checkpoint that is best on `val_select` by
    MCC, uses a cosine schedule with 10 % warm-up, and logs to no tracker by default. `bf16=None` (the default) means
    bf16 if the accelerator supports it, else fp32. fp16 and uploads by the Trainer cannot be switched on.
    `TrainingOptions` declares and explains the options.

    Raises:
        UserError: a value is out of range, or two options exclude each other.
    """

    def __post_init__(self):
        self.label_names = ["labels"]
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and not self.use_cpu
        check_bounds(self, NatixTrainingArguments)
        score = (self.metric_for_best_model or "mcc").removeprefix("eval_")
        if score not in SCORES:
            raise UserError(f"metric_for_best_model: expected one of {', '.join(SCORES)}; found {score}")
        self._check_optimizer()
        self._check_launch()
        if self.eval_strategy == "no":
            # Without evaluations there is no best checkpoint; the last one is the result.
            self.load_best_model_at_end = False
            if self.early_stopping_patience is not None:
                raise UserError(
                    "early_stopping_patience needs evaluations: add --eval_strategy epoch, or leave it out with "
                    "--early_stopping_patience null"
                )
        elif self.save_strategy == "no":
            self.load_best_model_at_end = False
        self._check_rhythm()
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = score not in ("loss", "log_loss", "ece")
        if self.use_cpu or not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # torch would warn at every evaluation
        # The parent does not know our optimizers, or means others by their names, so it gets its own default.
        optim, self.optim = self.optim, OptimizerNames.ADAMW_TORCH if self.optim in OPTIMIZERS else self.optim
        chosen = self.accelerator_config is not None
        super().__post_init__()
        if self.dataloader_pin_memory and not chosen:
            self.accelerator_config.non_blocking = True  # copy a batch while the device computes
        self.optim = optim if optim in OPTIMIZERS else self.optim

    @property
    def sharded(self) -> bool:
        """Whether `accelerate launch` requests a sharded model (FSDP)."""
        return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"

    def _check_launch(self) -> None:
        """Raise `UserError` for unsupported launchers and settings of them, and for arguments that they rule out."""
        for name in ("fsdp", "deepspeed"):
            if getattr(self, name):
                raise UserError(f"{name}: not supported in a recipe; the launcher distributes the model: {LAUNCH}")
        for name in ("DEEPSPEED", "MEGATRON_LM"):
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
                raise UserError(f"accelerate's {name.lower()} is not supported: {LAUNCH}")
        if self.ddp_backend is not None and "LOCAL_RANK" not in os.environ:
            sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
            if all(os.environ.get(name, "1") == "1" for name in sizes):
                raise UserError(
                    f"ddp_backend: {self.ddp_backend} given, but there is only one process: start several with "
                    "torchrun --nproc_per_node 2 -m natix_hf.train ..., or leave it out"
                )
        if self.sharded:
            self._check_sharding()

    def _check_sharding(self) -> None:
        """Raise `UserError` for what a sharded model does not support; `training.sharding` checks the rest."""
        for name, (unset, wanted, why) in FSDP_SETTINGS.items():
            given = os.environ.get(name, unset)
            if given.lower() != wanted.lower():
                raise UserError(
                    f"accelerate's {name.lower()}: expected {wanted or 'none'}, found {given}: {why}; "
                    "recipes/accelerate/fsdp2.yaml has the supported settings"
                )
        unsupported = []
        if word(self.optim) not in FSDP_OPTIMIZERS:
            unsupported.append(f"optim: {word(self.optim)} (supported: {', '.join(FSDP_OPTIMIZERS)})")
        for name, off in FSDP_REFUSED.items():
            if getattr(self, name) != off:
                unsupported.append(f"{name}: {getattr(self, name)}")
        if any(kind.projected and name in self.loss for name, kind in LOSSES.items()):
            unsupported.append(f"loss: {self.loss} (its projection)")
        if unsupported:
            raise UserError(
                f"a sharded model (FSDP) does not support {', '.join(unsupported)}: leave it out, or use "
                "recipes/accelerate/multi_gpu.yaml"
            )

    def _check_rhythm(self) -> None:
        """Raise `UserError` for pairs of options that the parent rejects, with what to type instead."""
        if self.load_best_model_at_end and word(self.save_strategy) != "best":
            self._check_saved_are_evaluated()
        scheduler = word(self.lr_scheduler_type)
        if word(self.eval_strategy) == "no" and scheduler in ("reduce_lr_on_plateau", "greedy"):
            raise UserError(f"lr_scheduler_type: {scheduler} needs evaluations: add --eval_strategy epoch")
        if self.dataloader_num_workers == 0:
            for name, off in (("dataloader_prefetch_factor", "null"), ("dataloader_persistent_workers", "false")):
                if getattr(self, name) not in (None, False):
                    raise UserError(
                        f"{name}: {getattr(self, name)} given, but dataloader_num_workers is 0: leave it out with "
                        f"--{name} {off}"
                    )

    def _check_saved_are_evaluated(self) -> None:
        """Raise `UserError` if there are checkpoints without an evaluation, of which the best one is to be kept."""
        scored, saved = word(self.eval_strategy), word(self.save_strategy)
        every = self.eval_steps or self.logging_steps  # steps between evaluations
        if scored != saved:
            steps, other = (self.save_steps, "eval") if saved == "steps" else (every, "save")
            given, scoring = f"save_strategy: {saved}", f"eval_strategy is {scored}"
            way = f"--{other}_strategy steps --{other}_steps {steps:g}"
        elif saved == "steps" and every and abs(self.save_steps / every - round(self.save_steps / every)) > 1e-6:
            given, scoring = f"save_steps: {self.save_steps:g}", f"eval_steps is {every:g}"
            way = f"--save_steps {every:g}"
        else:
            return
        raise UserError(
            f"{given} given and {scoring}, but keeping the best checkpoint needs an evaluation at each one: "
            f"add {way}, or --load_best_model_at_end false"
        )

    def _check_optimizer(self) -> None:
        """Raise `UserError` for optimizers that are unknown or do not fit the other arguments."""
        for key, known in (("optim", (*OPTIMIZERS, *OptimizerNames)), ("sam_base", SAM_BASES)):
            name, known = getattr(self, key), [word(name) for name in known]
            if name not in known:
                near = [n for n in known if n.startswith(name)] or get_close_matches(name, known, n=1)
                guess = f"; did you mean {near[0]}?" if near else ""
                ours = ", ".join(n for n in OPTIMIZERS if n in known)
                raise UserError(f"{key}: expected {ours} or an optimizer of transformers, found {name}{guess}")
        if self.optim == "sam" and not 0 < self.sam_rho < math.inf:
            raise UserError(f"sam_rho: expected a number above 0, found {self.sam_rho}")
        base = self.sam_base if self.optim == "sam" else self.optim
        if base.startswith("schedule_free") and (self.ema or word(self.lr_scheduler_type) != "constant"):
            raise UserError(
                f"{base} averages its weights itself, which replaces a schedule: set ema: false and "
                "lr_scheduler_type: constant (--ema false --lr_scheduler_type constant; warmup_steps still applies)"
            )
