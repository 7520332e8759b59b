"""What a recipe may say: every option has one name, one default and one sentence of help, and this is where.

The names are those of transformers' `TrainingArguments` and TRL's `ModelConfig` where these have one; the options of
training are many and stand in `training_arguments.py`. This module knows the options, not how a file or a command
line fills them (`recipe_file.py`) nor what they cause (the rooms that take them).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args, get_type_hints

from natix_hf.errors import UserError
from natix_hf.photos.geometry import GEOMETRIES
from natix_hf.training.training_arguments import OPTIMIZERS, SCORES, NatixTrainingArguments, option

__all__ = [
    "OPTIMIZERS",
    "REFUSED",
    "SCORES",
    "DataOptions",
    "DecisionOptions",
    "HubOptions",
    "LoraOptions",
    "ModelOptions",
    "NatixTrainingArguments",
    "PurposeOptions",
    "Recipe",
    "SpeedOptions",
]


@dataclass
class ModelOptions:
    """Which checkpoint is trained, and what stands on top of it."""

    _argument_group_name: ClassVar[str] = "model"

    model_name_or_path: str | None = option(
        None,
        "DINOv3 checkpoint: Hub id or folder (transformers or timm layout), a finished run, or builtin:demo-backbone",
    )
    model_revision: str | None = option(None, "branch, tag or commit of the checkpoint on the Hub")
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint or data set")
    attn_implementation: str = option(
        "sdpa", "handed to transformers unchanged: sdpa, eager, flex_attention, flash_attention_2, a Hub kernel, ..."
    )
    method: Literal["lora", "probe", "full"] = option(
        "lora", "lora: adapters and head; probe: head on frozen features; full: every weight"
    )
    pooling: Literal["cls", "mean", "cls_mean"] = option(
        "cls", "what the head reads: the CLS token, the mean of the patch tokens, or both"
    )
    feature_layers: int = option(1, "concatenate the pooled features of this many last layers")
    head: Literal["linear", "mlp"] = option("linear", "the classification head")
    head_dropout: float = option(0.0, "dropout before the head")
    reuse_head: bool = option(
        False, "start from a run whose classes have other names: its head goes on, its first class as the first, ..."
    )


@dataclass
class LoraOptions:
    """The adapters, for method lora."""

    _argument_group_name: ClassVar[str] = "lora"

    lora_r: int = option(16, "rank of the adapters")
    lora_alpha: int = option(32, "scale of the adapters; they are multiplied by alpha / r")
    lora_dropout: float = option(0.05, "dropout before the adapters")
    lora_target_modules: list[str] = option(["all-linear"], "names of the backbone's layers to adapt, or all-linear")
    lora_modules_to_save: list[str] | None = option(None, "further modules trained whole beside the head")
    lora_last_blocks: int | None = option(None, "adapt only this many last blocks")
    use_rslora: bool = option(False, "rank-stabilised scale, alpha / sqrt(r)")
    use_dora: bool = option(False, "weight-decomposed adapters (DoRA)")
    lora_init: str = option("default", "how adapters start: default, gaussian, orthogonal, olora or pissa")
    lora_train_norms: bool = option(False, "train the norms of the adapted blocks, and the last one, beside adapters")
    unfreeze_last_blocks: int = option(
        0, "train this many last blocks whole; adapters stand in those below (lora_last_blocks counts both)"
    )


@dataclass
class DataOptions:
    """Which photos, how they are read, and how they are divided."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None,
        "photos: folder (class folders, images + table, parquet, save_to_disk), Hub id or builtin:scenes",
    )
    dataset_config: str | None = option(
        None, "configuration of a Hub data set; for builtin:scenes the number of photos"
    )
    image_column_name: str = option("image", "column that holds the photo")
    label_column_name: str = option("label", "column that holds the class")
    group_column: list[str] | None = option(
        None,
        "columns; rows of one value stay in one split (a video, a sequence); literal name first, then a dotted path",
    )
    near_duplicates: bool = option(True, "look for altered copies of a photo, and keep them in one split")
    test_split: Literal["keep", "merge"] = option(
        "keep", "a test part that the data set brings: keep it as val_test, or merge it with the rest and cut anew"
    )
    test_on: list[str] | None = option(
        None,
        "COLUMN=VALUE: val_test is the photos of this value and nothing else; a test part that the data set brings is "
        "merged with the rest",
    )
    hold_out_each: str | None = option(
        None, "metadata column: python -m natix_hf.folds trains one run for each of its values, tested on that alone"
    )
    label_names: list[str] | None = option(
        None, "class names in the order of their ids; integer labels index this list"
    )
    positive_label: str | None = option(None, "the class that AUROC and precision speak of; default the class of id 1")
    split_ratios: list[float] = option(
        [0.60, 0.15, 0.15, 0.10], "shares of train, val_select, val_calib, val_test; they sum to 1"
    )
    split_seed: int = option(0, "seed of the split; the same rows and seed give the same split")
    image_size: int = option(224, "height and width in pixels that the model sees")
    resize: Literal[tuple(GEOMETRIES)] = option(
        "squash", "how a photo becomes a square: " + ", ".join(f"{k} {g.help}" for k, g in GEOMETRIES.items())
    )
    augment: Literal[
        "none",
        "basic",
        "auto",
        "rand",
        "trivial",
        "augmix",
        "challenge@2025",
        "challenge@2026-04",
        "challenge@2026-05",
    ] = option(
        "basic",
        "none; basic: large random crops and mirror images; auto, rand, trivial, augmix: the policy of that name "
        "after these; challenge@...: what StreetVision's validators sent at that time (a probe sees none of them)",
    )
    challenge_levels: list[float] | None = option(
        None,
        "augment challenge@2025 and challenge@2026-04: probabilities of levels 0 to 3, such as 0.1 0.2 0.3 0.4; "
        "default: all alike, as validators draw them",
    )
    broken_photos: Literal["refuse", "skip"] = option("refuse", "what to do about photos that cannot be read")
    preprocessing_num_workers: int | None = option(None, "processes that inspect the photos; default one per core")


@dataclass
class DecisionOptions:
    """How logits become probabilities, and probabilities decisions; all of it on val_calib, after training."""

    _argument_group_name: ClassVar[str] = "decision"

    calibrator: list[str] = option(
        ["temperature"],
        "one or more of none, temperature, vector, isotonic: the one that predicts held-out groups of val_calib best, "
        "and none where nothing is clearly better than the logits as they are",
    )
    target_prior: list[float] | None = option(
        None,
        "class shares expected where the model will work, in the order of the ids; of two classes that of the "
        "positive one is enough, e.g. 0.5; probabilities are moved to them",
    )
    threshold_metric: str = option(
        "mcc", "what the threshold is best for: mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P or recall>=R"
    )
    fold_threshold: bool = option(
        False, "decide at that threshold: the model's bias is moved so that it sits at 0.5; otherwise it is reported"
    )
    calibrate_on: Literal["clean", "challenge@2025", "challenge@2026-04", "challenge@2026-05"] = option(
        "clean", "val_calib as it is, or as that challenge sends it; what the other would give is reported beside it"
    )
    risk: Literal["none", "fpr", "fnr", "error", "precision"] = option(
        "none", "what the control part of val_calib guarantees, by leaving doubtful photos to a person"
    )
    risk_alpha: float = option(0.02, "highest rate that is let pass (of precision: 1 minus the least precision)")
    risk_delta: float = option(0.1, "chance that the guarantee does not hold")
    prevalence: float | None = option(None, "share of positives that a promise of precision is made for")
    calibrate_views: int = option(
        1, "how often each photo of val_calib is sent, drawn anew each time; for calibrate_on"
    )
    robustness: list[str] = option([], "challenge profiles under which val_test is measured beside its clean photos")
    slices: list[str] = option([], "metadata columns that figures are broken down by; default all with 2 to 50 values")

    def __post_init__(self):
        from natix_hf.decision.calibrators import check_candidates
        from natix_hf.decision.prior import check_target_prior
        from natix_hf.decision.threshold import parse_metric
        from natix_hf.streetvision.profiles import check_profiles

        check_candidates(self.calibrator)
        if self.target_prior:
            check_target_prior(self.target_prior)
        parse_metric(self.threshold_metric)
        for name in ("calibrate_on", "risk"):  # the recipe's parser checks them too, Python and natix_hf.calibrate not
            known = get_args(get_type_hints(DecisionOptions)[name])
            if getattr(self, name) not in known:
                raise UserError(f"{name}: '{getattr(self, name)}' given, one of {', '.join(known)} expected")
        for name, share in (("risk_alpha", self.risk_alpha), ("risk_delta", self.risk_delta)):
            if not 0 < share < 1:
                raise UserError(f"{name}: {share:g} given, a number above 0 and below 1 expected")
        if self.calibrate_views < 1:
            raise UserError(f"calibrate_views: {self.calibrate_views} given, at least 1 expected")
        check_profiles(self.robustness, "robustness")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise UserError(f"prevalence: {self.prevalence:g} given, a share above 0 and below 1 expected")
        if self.risk == "precision" and self.prevalence is None:
            raise UserError("risk: precision depends on how common positives are: add prevalence (--prevalence 0.02)")


@dataclass
class SpeedOptions:
    """What is kept so that nothing is computed twice."""

    _argument_group_name: ClassVar[str] = "speed"

    cache_dir: str | None = option(
        None, "folder of frozen features and pre-resized copies; default ~/.cache/natix_hf (NATIX_HF_HOME)"
    )
    cache_gb: float | None = option(
        None, "the most that cached features may take; those not asked for longest make room; default: no limit"
    )
    fixed_views: int = option(
        0,
        "so many augmented views of each photo, in turn from epoch to epoch; 0: new ones in every epoch. A probe sees "
        "them beside the photo itself, each computed once",
    )
    prefix_cache_gb: float | None = option(
        None,
        "where only the last blocks are trained (lora_last_blocks): keep what stands below them on disk, at most so "
        "many gigabytes, and run only these blocks; decides fixed views and precision, and says so",
    )
    decode_copy: bool = option(
        False,
        "write the training photos once at reduced size and train on that; quicker, and views differ a little "
        "(another JPEG coding, and random crops of the same kind but elsewhere); no effect on method probe",
    )
    decode_copy_side: int | None = option(
        None, "short side of the copies in pixels; default 1.75 times image_size, rounded up to a multiple of 16"
    )


@dataclass
class PurposeOptions:
    """What the run is for, where it is no ordinary one."""

    _argument_group_name: ClassVar[str] = "purpose"

    find_lr: bool = option(
        False, "try rising learning rates on train, draw the curve to OUTPUT_DIR-find_lr, suggest one, and end"
    )
    sweep: bool = option(False, "end with the score on val_select; set by natix_hf.sweep, val_test stays unread")
    refit: Literal["none", "all"] = option(
        "none", "all: train once more on the rows of all four splits, as the run refit_from was trained"
    )
    refit_from: str | None = option(
        None, "(or --from) the finished run of this recipe whose steps, calibration and figures a refit takes over"
    )

    def __post_init__(self):
        chosen = [key for key, on in (("find_lr", self.find_lr), ("sweep", self.sweep), ("refit", self.refits)) if on]
        if len(chosen) > 1:
            words = " or ".join(f"--{key} {'none' if key == 'refit' else 'false'}" for key in chosen)
            raise UserError(f"{' and '.join(chosen)}: a run is for one of them: leave the others out with {words}")
        if self.refits and self.refit_from is None:
            raise UserError(
                "refit: of which run? add --from runs/NAME, a finished run of this recipe, or leave it out with "
                "--refit none"
            )
        if self.refit_from is not None and not self.refits:
            raise UserError("refit_from: nothing is refitted: add --refit all, or leave it out with --refit_from null")

    @property
    def refits(self) -> bool:
        return self.refit != "none"

    @property
    def kind(self) -> str:
        """The purpose as the locked splits name it."""
        if self.refits:
            return "refit"
        return "range test" if self.find_lr else "sweep" if self.sweep else "run"


@dataclass
class HubOptions:
    """Where the finished run is published, once it is proved; nothing is uploaded while it trains."""

    _argument_group_name: ClassVar[str] = "hub"

    push_to_hub: bool = option(False, "publish the finished run as natix_hf.publish does, after the proof")
    hub_model_id: str | None = option(None, "owner/name of the model on the Hub; made if it is not there")
    hub_format: Literal["auto", "stock", "merged", "adapter", "onnx"] = option(
        "auto", "auto: stock where it can hold the model, else merged"
    )
    hub_private_repo: bool = option(False, "make a new repository private")
    model_version: str = option("1.0.0", "X.Y.Z, also the tag")
    hotkey: str | None = option(
        None, "SS58 address of a StreetVision participant; adds what the network (halted as of 2026-05) asks for"
    )

    def __post_init__(self):
        if self.push_to_hub and not self.hub_model_id:
            raise UserError(
                "push_to_hub: where to? add hub_model_id: owner/name (--hub_model_id owner/name), or leave it out "
                "with --push_to_hub false"
            )


# Options of TrainingArguments that a recipe does not take, and what to say to whoever writes one.
REFUSED = {
    "fp16": "DINOv3 overflows to NaN in fp16; use bf16 or leave both out",
    "fp16_full_eval": "DINOv3 overflows to NaN in fp16; use bf16 or leave both out",
    "gradient_checkpointing": "it is called activation_checkpointing now",
    "gradient_checkpointing_kwargs": "it is called activation_checkpointing_kwargs now",
    "hub_token": "tokens come from the environment (HF_TOKEN) or the login of the hf command, never from a recipe",
    "remove_unused_columns": "it has no meaning here, the data set decides what the model sees",
    "debug": "write --debug on the command line for a traceback",
}


@dataclass
class Recipe:
    """All options of a run, by topic.

    Raises:
        UserError: where settings of two topics exclude each other.
    """

    model: ModelOptions
    lora: LoraOptions
    data: DataOptions
    decision: DecisionOptions
    speed: SpeedOptions
    purpose: PurposeOptions
    hub: HubOptions
    training: NatixTrainingArguments

    def __post_init__(self):
        self._check_push()
        if self.data.test_on:
            self.data.hold_out_each = None  # a fold has no folds of its own
        if self.model.method == "probe" and self.data.augment == "basic" and not self.speed.fixed_views:
            self.data.augment = "none"  # what a probe sees, so that recipe.yaml and card say so
        from natix_hf.training.curriculum import check_curriculum

        place = self.training.output_dir
        if place and self.purpose.refits and Path(place).absolute() == Path(self.purpose.refit_from).absolute():
            self.training.output_dir = f"{Path(place)}-refit"
        from natix_hf.training.losses import check_loss, class_weights
        from natix_hf.training.sampling import check_sampling

        check_loss(self.training, self.model.method)
        check_sampling(self.training)
        check_curriculum(self.training)
        if self.training.class_weights and (names := self.data.label_names):
            class_weights(self.training.class_weights, [1] * len(names), names)

    def _check_push(self) -> None:
        """Raise `UserError` where what is to be published could not be."""
        hub, model = self.hub, self.model
        if not hub.push_to_hub:
            return
        if self.purpose.kind in ("sweep", "range test"):
            raise UserError(f"push_to_hub: a {self.purpose.kind} leaves no model to publish: add --push_to_hub false")
        if self.data.hold_out_each and not self.data.test_on:
            raise UserError(
                "push_to_hub: with hold_out_each there are many runs: publish one with natix_hf.publish, and here "
                "leave it out with --push_to_hub false"
            )
        if hub.hub_format == "adapter" and model.method != "lora":
            raise UserError(
                f"hub_format: adapter is of method lora, this is {model.method}: leave it out with --hub_format auto"
            )
        if hub.hotkey is not None and hub.hub_format not in ("auto", "stock"):
            raise UserError(
                "hotkey: StreetVision's clients load a stock model and nothing else, and hub_format is "
                f"{hub.hub_format}: leave it out with --hub_format auto, or the hotkey with --hotkey null"
            )
        odd = {
            key: (value, f"--{key} {plain}")
            for key, value, plain in (
                ("pooling", model.pooling, "cls" if model.pooling == "cls_mean" else model.pooling),
                ("feature_layers", model.feature_layers, 1),
                ("head", model.head, "linear"),
            )
            if value != plain
        }
        if odd and (hub.hub_format == "stock" or hub.hotkey is not None):
            why = "hub_format: stock" if hub.hub_format == "stock" else "hotkey: StreetVision's stock model"
            held = " and ".join(f"{key}: {value}" for key, (value, _) in odd.items())
            words = " ".join(words for _, words in odd.values())
            raise UserError(f"{why} cannot hold {held}: change it with {words}, or --hub_format auto --hotkey null")
