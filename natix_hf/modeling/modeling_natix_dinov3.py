"""A photo classifier on a DINOv3 vision transformer: backbone, pooling, head, calibration.

This file is saved with the weights (for `trust_remote_code` on the Hub), so it imports only torch, transformers and
the files saved beside it. `checkpoints.build_model` loads a backbone; `image_processing_natix_dinov3.py` prepares
photos as views.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .adapter_natix_dinov3 import (
    exported_adapter,
    load_exported_adapter,
    refuse_dora_file,
    refuse_merged,
    refuse_merged_file,
)
from .configuration_natix_dinov3 import NatixDinov3Config

# The coarsest precision of a stored checkpoint is bfloat16, with 8 bits of mantissa.
CALIBRATION_TOLERANCE = 2.0**-8
ATTENTION_SIZE = 128  # hidden size of the attention over tiles, as in the paper


@dataclass
class NatixDinov3Output(ImageClassifierOutput):
    """`loss`, `logits` and, on request, `features` (the input of the head) and `whole_logits`.

    A model with early exits also returns `stage` `(batch,)`: 1 if the whole photo alone gave the answer, 2 if all
    views did.

    For a model with tiles, `features` has the shape `(batch, views, feature_size)`, and `whole_logits`
    `(batch, classes)` are the uncalibrated logits of the whole photo alone. They are uncalibrated because the
    calibration belongs to the sum of whole photo and tiles.
    """

    features: Tensor | None = None
    whole_logits: Tensor | None = None
    stage: Tensor | None = None


def isotonic_logits(logits: Tensor, knots: Sequence[Sequence[Sequence[float]]]) -> Tensor:
    """Maps the probability of each class through its own knots, normalises the sum to 1 and returns the logarithm.

    Args:
        logits: `(batch, classes)`.
        knots: `[x, y]` for each class, both increasing; the map is linear between knots and constant outside.
    """
    probabilities = logits.double().softmax(dim=-1)  # knots near 1 are closer together than float32 resolves
    columns = []
    for k, (x, y) in enumerate(knots):
        x, y = (torch.tensor(values, dtype=torch.float64, device=logits.device) for values in (x, y))
        share = (probabilities[:, k, None] - x[:-1]) / (x[1:] - x[:-1])  # (batch, knots - 1)
        columns.append(y[0] + (share.clamp(0.0, 1.0) * (y[1:] - y[:-1])).sum(dim=-1))
    mapped = torch.stack(columns, dim=-1)
    return (mapped / mapped.sum(dim=-1, keepdim=True)).log().to(logits.dtype)


class ResidualMlp(nn.Module):
    """`x + MLP(x)` with one hidden layer. The last matrix starts at zero, so the module starts as the identity.

    Houlsby et al. (2019) initialise adapters inside a network in this way. Its use as a head on features is our own
    reading of a residual adapter, without a reference implementation.
    """

    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.up = nn.Linear(size, hidden_size)
        self.down = nn.Linear(hidden_size, size)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(batch, size)` to features of the same shape."""
        return features + self.down(nn.functional.gelu(self.up(features)))


class NatixDinov3Classifier(nn.Module):
    """Dropout, then `config.head`: features `(..., feature_size)` to logits `(..., classes)`."""

    def __init__(self, config: NatixDinov3Config):
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        size, hidden_size = config.feature_size, config.head_hidden_size or config.feature_size
        self.hidden: nn.Module = nn.Identity()
        if config.head == "mlp":
            self.hidden = nn.Sequential(nn.Linear(size, hidden_size), nn.GELU())
        elif config.head == "residual":
            self.hidden = ResidualMlp(size, hidden_size)
        self.linear = nn.Linear(hidden_size if config.head == "mlp" else size, config.num_labels)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.hidden(self.dropout(features)))


class NatixDinov3TileHead(NatixDinov3Classifier):
    """Combines the tiles of a photo: features `(batch, tiles, feature_size)` to logits `(batch, classes)`.

    `top_k` takes the mean of the k largest tile logits of each class, `mean` that of all tile logits. `attention`
    computes logits from the mean of the tile features, weighted by gated attention (Ilse et al., "Attention-based Deep
    Multiple Instance Learning", 2018).
    """

    def __init__(self, config: NatixDinov3Config):
        super().__init__(config)
        tiles, aggregate = config.views["tiles"], config.views["aggregate"]
        self.top_k = config.views["top_k"] if aggregate == "top_k" else tiles  # all tiles for `mean`
        self.attends = aggregate == "attention"
        if self.attends:
            self.value = nn.Linear(config.feature_size, ATTENTION_SIZE)
            self.gate = nn.Linear(config.feature_size, ATTENTION_SIZE)
            self.score = nn.Linear(ATTENTION_SIZE, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, features: Tensor) -> Tensor:
        if self.attends:
            scores = self.score(self.value(features).tanh() * self.gate(features).sigmoid())  # (batch, tiles, 1)
            return super().forward((scores.softmax(dim=1) * features).sum(dim=1))
        logits = super().forward(features)  # (batch, tiles, classes)
        # Training may use only a random subset of the tiles.
        return logits.topk(min(self.top_k, logits.shape[1]), dim=1).values.mean(dim=1)


class NatixDinov3Head(NatixDinov3Classifier):
    """The classifier, then the calibration: `logits = classifier(x) / temperature + logit_bias`.

    The calibration is stored in two buffers of the head, so it is saved wherever the head is saved, also with an
    adapter. An isotonic calibrator does not fit into these buffers: it is stored in the config and applied first,
    except during training. For a model with tiles, this module also holds the tile head. Its logits are added to those
    of the whole photo, and the sum is calibrated.
    """

    def __init__(self, config: NatixDinov3Config):
        super().__init__(config)
        self.tiles = None if config.views is None else NatixDinov3TileHead(config)
        self.register_buffer("temperature", torch.ones(config.num_labels))  # (classes,)
        self.register_buffer("logit_bias", torch.zeros(config.num_labels))  # (classes,)
        self.isotonic = config.isotonic
        self.views_exit = config.views_exit

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise: Xavier weights (Glorot and Bengio, 2010), zero biases, neutral calibration.

        The last matrix of a residual head starts at zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualMlp):
                init.zeros_(module.down.weight)
        init.ones_(self.temperature)
        init.zeros_(self.logit_bias)

    def forward(self, features: Tensor, whole_alone: bool = False) -> Tensor:
        """Features to calibrated logits `(batch, classes)`.

        Args:
            features: `(batch, feature_size)`; with tiles `(batch, views, feature_size)`, the whole photo first.
            whole_alone: use neither the tiles nor the calibration.
        """
        logits = super().forward(features if self.tiles is None else features[:, 0])
        if whole_alone:
            return logits
        if self.tiles is not None:
            whole, logits = logits, logits + self.tiles(features[:, 1:])
            if self.views_exit is not None and not self.training:
                logits = torch.where(self.leaves(whole)[:, None], self.of_stage(0, whole), self.of_stage(1, logits))
        return self.calibrated(logits)

    def leaves(self, whole: Tensor) -> Tensor:
        """Which photos leave before their tiles are needed, `(batch,)` bool.

        Args:
            whole: `(batch, classes)` uncalibrated logits of the whole photos.
        """
        low, high = self.views_exit["low"], self.views_exit["high"]
        probabilities = self.of_stage(0, whole).double().softmax(dim=-1)
        if high is None:
            return torch.zeros_like(probabilities[:, 0], dtype=torch.bool)
        if low is None:
            return probabilities.amax(dim=-1) >= high
        score = probabilities[:, self.views_exit["positive"]]
        return (score >= high) | (score <= low)

    def of_stage(self, stage: int, logits: Tensor) -> Tensor:
        """Calibrates the logits `(batch, classes)` of one stage, so that both stages share one scale.

        Args:
            stage: 0 for the whole photo alone, 1 for all views.
        """
        fitted = self.views_exit["stages"][stage]
        if fitted["isotonic"] is not None:
            logits = isotonic_logits(logits, fitted["isotonic"])
        return logits / logits.new_tensor(fitted["temperature"]) + logits.new_tensor(fitted["bias"])

    def calibrated(self, logits: Tensor) -> Tensor:
        """Applies the calibration that all photos share to logits `(batch, classes)`."""
        if self.isotonic is not None and not self.training:
            logits = isotonic_logits(logits, self.isotonic)
        return logits / self.temperature + self.logit_bias


def _refuse_merged(model: nn.Module, state_dict: Mapping[str, Tensor], *_: Any) -> None:
    refuse_merged(model.config.merged_adapter, state_dict)


class NatixDinov3ForImageClassification(PreTrainedModel):
    """Any DINOv3 ViT with a classification head that owns its calibration."""

    config_class = NatixDinov3Config
    # Not "model": the stock class uses that prefix, and it collides with its own attribute `model`.
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # forward() takes **kwargs but does not normalise the loss by `num_items_in_batch`. Trainer assumes that it does
    # unless this is False.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DINOv3ViTEmbeddings", "DINOv3ViTLayer", "NatixDinov3Head"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    # Number of blocks that run on `prefix_states`, and the height and width in pixels of the photos that these states
    # were computed from. The caller that passes `prefix_states` sets both.
    last_blocks: int = 0
    prefix_size: tuple[int, int] = (0, 0)
    # Whether photos may leave early. If False, all views of every photo are computed; the answers are the same.
    early_exits: bool = True

    def __init__(self, config: NatixDinov3Config):
        super().__init__(config)
        self.backbone = DINOv3ViTModel(config.backbone_config)
        # Only masked pre-training uses the mask token. It gets no gradient here, and DDP waits for every gradient.
        self.backbone.embeddings.mask_token.requires_grad_(False)
        self.head = NatixDinov3Head(config)
        self.register_load_state_dict_pre_hook(_refuse_merged)  # also runs when peft loads an adapter
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers builds models on the meta device. A tensor that is neither in the checkpoint nor set here would
        # hold uninitialised memory.
        if isinstance(module, NatixDinov3Head):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding; activation checkpointing hooks its output when the backbone is frozen."""
        return self.backbone.get_input_embeddings()

    @property
    def feature_size(self) -> int:
        """Dimension of the features that `extract_features` returns."""
        return self.config.feature_size

    def _pool(self, outputs: Any) -> Tensor:
        """Backbone outputs to features `(batch, feature_size)`; several layers are concatenated in their order."""
        states = [outputs.last_hidden_state]  # (batch, 1 + registers + patches, hidden), after the final norm
        if self.config.feature_layers > 1:
            # hidden_states are taken before the final norm; last_hidden_state is the last of them after it.
            earlier = outputs.hidden_states[-self.config.feature_layers : -1]
            states = [self.backbone.norm(state) for state in earlier] + states
        first_patch = 1 + self.config.backbone_config.num_register_tokens
        parts = []
        for state in states:
            if self.config.pooling != "mean":
                parts.append(state[:, 0])
            if self.config.pooling != "cls":
                parts.append(state[:, first_patch:].mean(dim=1))
        return torch.cat(parts, dim=-1)

    def _run_backbone(self, pixel_values: Tensor, output_hidden_states: bool | None, **kwargs: Any) -> Any:
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return self.backbone(
            pixel_values,
            output_hidden_states=output_hidden_states or self.config.feature_layers > 1,
            return_dict=True,
            **kwargs,
        )

    def _run_last_blocks(self, states: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Runs the last `self.last_blocks` blocks of the backbone on their input `(batch, tokens, hidden)`."""
        positions = self.backbone.rope_embeddings(states.new_empty(1, 3, *self.prefix_size))
        hidden_states = [states]
        for layer in self.backbone.model.layer[-self.last_blocks :]:
            hidden_states.append(layer(hidden_states[-1], position_embeddings=positions, **kwargs))
        return BaseModelOutput(
            last_hidden_state=self.backbone.norm(hidden_states[-1]), hidden_states=tuple(hidden_states)
        )

    def extract_features(self, pixel_values: Tensor) -> Tensor:
        """Photos `(batch, [views,] 3, H, W)` to the features `(batch, [views,] feature_size)` that the head reads.

        A model with tiles also accepts the whole photos alone, `(batch, 1, 3, H, W)`.
        """
        features = self._pool(self._run_backbone(self._each_view(pixel_values), None))
        return self._by_photo(features, pixel_values)

    def _each_view(self, pixel_values: Tensor) -> Tensor:
        """The views of all photos as one batch, `(batch * views, 3, H, W)`."""
        return pixel_values if self.config.views is None else pixel_values.flatten(0, 1)

    def _by_photo(self, features: Tensor, pixel_values: Tensor) -> Tensor:
        """Undoes `_each_view`."""
        return features if self.config.views is None else features.unflatten(0, (-1, pixel_values.shape[1]))

    def _in_two_stages(self, pixel_values: Tensor, **kwargs: Any) -> NatixDinov3Output:
        """The answers of `self.head` on all views, with tiles computed only for photos that do not leave early."""

        def features(views: Tensor) -> Tensor:
            return self._by_photo(self._pool(self._run_backbone(self._each_view(views), None, **kwargs)), views)

        whole_features = features(pixel_values[:, :1])
        whole = self.head(whole_features, whole_alone=True)
        stays = ~self.head.leaves(whole)
        logits = self.head.calibrated(self.head.of_stage(0, whole))
        if stays.any():
            all_features = torch.cat([whole_features[stays], features(pixel_values[stays, 1:])], dim=1)
            logits = logits.masked_scatter(stays[:, None], self.head(all_features).to(logits.dtype))
        return NatixDinov3Output(logits=logits, stage=1 + stays.long())

    def _check_views(self, pixel_values: Tensor) -> None:
        """Raise `ValueError` if photos were prepared for a model with other views."""
        views, shape = self.config.views, tuple(pixel_values.shape)
        if views is None and pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values: expected shape (batch, 3, H, W), found {shape}, because this model was not trained "
                "for tiles: prepare photos with its own image processor"
            )
        # Training may use the whole photo and only some of its tiles.
        if views is not None and (
            pixel_values.ndim != 5 or not (self.training or pixel_values.shape[1] == 1 + views["tiles"])
        ):
            raise ValueError(
                f"pixel_values: expected shape (batch, {1 + views['tiles']}, 3, H, W), a photo and its "
                f"{views['tiles']} tiles; found {shape}: prepare photos with the model's own image processor"
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        features: Tensor | None = None,
        prefix_states: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_features: bool = False,
        output_whole_logits: bool = False,
        **kwargs: Any,
    ) -> NatixDinov3Output:
        """Calibrated logits and, with labels, the cross-entropy. Takes one of three inputs.

        Args:
            pixel_values: `(batch, 3, H, W)`, normalised photos; H and W are multiples of the patch size. With tiles
                `(batch, views, 3, H, W)`, the whole photo first; hidden states and attention maps then have a batch
                of `batch * views`.
            labels: `(batch,)` class ids, or `(batch, classes)` probabilities.
            features: `(batch, [views,] feature_size)` from `extract_features`, instead of `pixel_values`; used to
                train a probe.
            prefix_states: `(batch, tokens, hidden)`, input of the last `self.last_blocks` blocks, instead of
                `pixel_values`. Only these blocks run; used if no block below them is trained.
            output_hidden_states: return the backbone's hidden states (before its final norm).
            output_attentions: return the backbone's attention maps; needs `attn_implementation="eager"`.
            output_features: return the input of the head.
            output_whole_logits: return the uncalibrated logits of the whole photo alone.

        Returns:
            `NatixDinov3Output` with `loss`, `logits` `(batch, classes)`, `hidden_states`, `attentions`, `features`,
            `whole_logits` `(batch, classes)`, and for a model with early exits `stage` `(batch,)`.

        Raises:
            ValueError: not exactly one of `pixel_values`, `features` and `prefix_states` is given, or the photos have
                other views than the model was trained for.
        """
        if sum(source is not None for source in (pixel_values, features, prefix_states)) != 1:
            raise ValueError("give exactly one of pixel_values, features and prefix_states")
        outputs = None
        if prefix_states is not None:
            outputs = self._run_last_blocks(prefix_states, **kwargs)
            features = self._pool(outputs)
        elif features is None:
            if output_attentions is not None:
                kwargs["output_attentions"] = output_attentions
            self._check_views(pixel_values)
            if self._leave_early(output_hidden_states, output_attentions, output_features, output_whole_logits):
                answers = self._in_two_stages(pixel_values, **kwargs)
                if labels is not None:
                    answers.loss = nn.functional.cross_entropy(answers.logits.float(), labels)
                return answers
            outputs = self._run_backbone(self._each_view(pixel_values), output_hidden_states, **kwargs)
            features = self._by_photo(self._pool(outputs), pixel_values)
        logits = self.head(features)  # (batch, classes)
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        keep_states = output_hidden_states or (output_hidden_states is None and self.config.output_hidden_states)
        return NatixDinov3Output(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states if outputs is not None and keep_states else None,
            attentions=outputs.attentions if outputs is not None else None,
            features=features if output_features else None,
            whole_logits=self.head(features, whole_alone=True) if output_whole_logits else None,
        )

    def _leave_early(self, *asked: bool | None) -> bool:
        """Whether photos may leave early; not if one of the `asked` outputs needs all views."""
        exits = self.early_exits and not self.training and self.config.views_exit is not None
        return exits and not any(asked) and not self.config.output_hidden_states

    def set_calibration(
        self,
        temperature: float | Sequence[float],
        logit_bias: float | Sequence[float] = 0.0,
        isotonic: Sequence[Sequence[Sequence[float]]] | None = None,
        decision: dict[str, Any] | None = None,
        views_exit: dict[str, Any] | None = None,
    ) -> None:
        """Set the calibration in the head and in the config; loading a model checks that the two agree.

        Args:
            temperature: one positive value, or one per class; the logits are divided by it.
            logit_bias: one value, or one per class; added last.
            isotonic: knots `[x, y]` for each class, applied first; None for no isotonic calibration.
            decision: the origin of the biases, as in the config; the model does not use it.
            views_exit: rule for early exits, as in the config; None to compute all views of every photo.

        Raises:
            ValueError: a temperature is not positive and finite, or a length is not the number of classes.
        """
        for name, value in (("temperature", temperature), ("logit_bias", logit_bias)):
            values = torch.as_tensor(value, dtype=torch.float32)
            if values.ndim > 1 or values.numel() not in (1, self.config.num_labels):
                raise ValueError(f"{name}: expected shape ({self.config.num_labels},), found {tuple(values.shape)}")
            if not values.isfinite().all() or (name == "temperature" and not (values > 0).all()):
                raise ValueError(f"{name}: expected finite values and positive temperatures, found {values.tolist()}")
            getattr(self.head, name).copy_(values)
        if isotonic is not None and len(isotonic) != self.config.num_labels:
            raise ValueError(
                f"isotonic: expected {self.config.num_labels} entries, one per class; found {len(isotonic)}"
            )
        self._adopt(isotonic, decision, views_exit)

    def _adopt(self, isotonic: Any = None, decision: Any = None, views_exit: Any = None) -> None:
        """Set the parts of the calibration that are not tensors, and write all of it into the config."""
        for module in self.modules():  # peft keeps two heads: the original and the trained one
            if isinstance(module, NatixDinov3Head):
                module.isotonic, module.views_exit = isotonic, views_exit
        self.config.isotonic, self.config.decision, self.config.views_exit = isotonic, decision, views_exit
        self.adopt_calibration()

    def adopt_calibration(self) -> None:
        """Write the head's temperature and bias into the config."""
        self.config.temperature = self.head.temperature.float().tolist()
        self.config.logit_bias = self.head.logit_bias.float().tolist()

    def adopt_adapter(self) -> None:
        """Take over the calibration of a loaded adapter's head, and drop the base's calibration."""
        self._adopt()

    def check_calibration(self) -> None:
        """Compare the head's calibration with the config's.

        Raises:
            ValueError: they differ by more than rounding to bfloat16 explains; the message gives both.
        """
        for name, neutral in (("temperature", 1.0), ("logit_bias", 0.0)):
            expected = getattr(self.config, name) or [neutral] * self.config.num_labels
            stored = getattr(self.head, name).detach().float().cpu()
            if not torch.allclose(stored, torch.tensor(expected), rtol=CALIBRATION_TOLERANCE, atol=1e-6):
                raise ValueError(
                    f"the checkpoint's head.{name} is {stored.tolist()}, but its config.json says {expected}: "
                    "the two files come from different runs: take both from the same run"
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, but float32 is the default dtype, and the calibration is checked after loading."""
        if kwargs.get("dtype", "auto") == "auto" and kwargs.get("torch_dtype", "auto") == "auto":
            # "auto" takes the dtype of the file, and DINOv3 overflows to NaN in float16.
            kwargs.pop("torch_dtype", None)
            kwargs["dtype"] = torch.float32
        adapter_kwargs = kwargs.get("adapter_kwargs")
        if adapter := exported_adapter(pretrained_model_name_or_path, adapter_kwargs):
            return load_exported_adapter(cls, adapter, **kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model._hf_peft_config_loaded:
            model.adopt_adapter()
        else:
            model.check_calibration()
        return loaded

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but refuses adapters that give wrong logits there: merged ones and DoRA."""
        if peft_model_id is not None:
            refuse_merged_file(self.config.merged_adapter, str(peft_model_id), kwargs.get("adapter_kwargs"))
            refuse_dora_file(str(peft_model_id), kwargs.get("adapter_kwargs"))
        return super().load_adapter(peft_model_id, *args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch; accepts the names on disk and those in memory.

        transformers saves `backbone.model.layer.N` as `backbone.layer.N`, and `from_pretrained` renames it back.
        Trainer's resume and `load_best_model_at_end` call this method instead, with `strict=False`. Without the
        renaming they would restore no layer and give no warning.
        """
        renamed = {re.sub(r"^backbone\.layer\.", "backbone.model.layer.", name): v for name, v in state_dict.items()}
        return super().load_state_dict(renamed, strict=strict, assign=assign)
