"""The input of training steps, and its order: views of photos, cached features, or cached activations.

The caller passes rows of the locked splits, which decide what each step may read. `inference/` implements the caches.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from natix_hf.decision.prior import prior_warning
from natix_hf.documents.run_record import Prefix
from natix_hf.files import home
from natix_hf.inference.batches import ClientPhotos
from natix_hf.inference.features import FixedView, frozen_features
from natix_hf.inference.pass_costs import Passes
from natix_hf.modeling.adapters import plain_model
from natix_hf.photos.copies import photo_copies
from natix_hf.photos.geometry import Geometry
from natix_hf.training.accounting import PhaseTimes
from natix_hf.training.curriculum import Curriculum, plan_curriculum
from natix_hf.training.prefix import PrefixPlan, plan_prefix, prefix_drift, prefix_rows, trained_blocks
from natix_hf.training.probe import kept_layers
from natix_hf.training.sampling import Strata, StratifiedSampler, seen_shares
from natix_hf.training.speed_options import SpeedOptions
from natix_hf.training.training_photos import EpochSampler, TrainingPhotos


class EpochOrder(NamedTuple):
    """The rows of each epoch.

    Attributes:
        sampler: draws the rows of an epoch.
        curriculum: decides when each row is admitted; None without a curriculum.
        shares: class shares for which the logits are calibrated; None if they are those of the photos.
    """

    sampler: EpochSampler
    curriculum: Curriculum | None
    shares: list[float] | None


class BatchSource:
    """Turn rows into data sets for training and evaluation.

    Args:
        processor: the image processor.
        args: `NatixTrainingArguments`.
        method: `lora`, `probe` or `full`.
        times: adds up the seconds spent on filling caches.
        augment, challenge_levels, sampled_tiles: as in `NatixTrainer`.
        speed: the options of the caches.

    Attributes:
        passes: cost of the passes of this run, by the cache that they fill.
        prefix: plan of the prefix cache; None without it.
        drift: relative change of the features by rounding in that cache; None if it is not rounded.
    """

    def __init__(
        self,
        processor: Any,
        args: Any,
        method: str,
        *,
        times: PhaseTimes,
        augment: str,
        challenge_levels: tuple[float, ...] | None,
        sampled_tiles: int = 0,
        speed: SpeedOptions,
    ) -> None:
        self.processor, self.args, self.method, self.times = processor, args, method, times
        self.augment, self.challenge_levels, self.sampled_tiles = augment, challenge_levels, sampled_tiles
        self.speed, self.cache_dir = speed, Path(speed.cache_dir or home())
        self.decode_workers = args.dataloader_num_workers  # from the recipe; a probe trains without workers
        self.passes = {"features": Passes(), "prefixes": Passes()}
        self.prefix: PrefixPlan | None = None
        self.drift: float | None = None

    def prefix_document(self) -> Prefix | None:
        """The `prefix` of `run.json`: the plan of the prefix cache, and the change of features by rounding."""
        return None if self.prefix is None else Prefix(**asdict(self.prefix), drift=self.drift)

    def epoch_order(
        self, rows: Any, model: Any, criterion: Any, names: list[str], target_prior: np.ndarray | None
    ) -> EpochOrder:
        """The order of training; warns if the class shares are far from the expected ones."""
        args = self.args
        seed = args.data_seed if args.data_seed is not None else args.seed
        labels = np.array(rows["label"][:])
        strata = Strata(labels, rows["source"][:], names, args.sampling, args.balance_by)
        with self.times.timed("curriculum") if args.curriculum != "none" else nullcontext():
            curriculum = plan_curriculum(
                args,
                model,
                rows,
                self.processor,
                names=names,
                cells=strata.cells,
                cache_dir=self.cache_dir,
                passes=self.passes["features"],
            )
        shares = seen_shares(strata.shares(), criterion)
        of_photos = np.bincount(labels, minlength=len(names)) / len(labels)
        warning = None if target_prior is None else prior_warning(shares, target_prior, names)
        if warning and args.should_log:
            print(f"warning: {warning}")
        if curriculum is None and strata.natural:
            sampler = EpochSampler(len(rows), seed)
        else:
            sampler = StratifiedSampler(strata, seed, curriculum and curriculum.admitted)
        return EpochOrder(sampler, curriculum, None if np.allclose(shares, of_photos, rtol=1e-3) else shares.tolist())

    def training_set(self, rows: Any, model: Any, *, scored: int) -> Dataset:
        """The data set to train on; `scored` is the number of rows in evaluations during training."""
        if self.method == "probe":
            with self.times.timed("features"):
                views = self._views(self.speed.fixed_views)
                return self.features(rows, model, layers=kept_layers(self.args), views=views)
        if self.speed.prefix_cache_gb is not None:
            return self._cut_set(rows, model, scored)
        geometry, copies = Geometry.of(self.processor), None
        if self.speed.decode_copy:
            side, progress = geometry.copy_side(self.speed.decode_copy_side), not self.args.disable_tqdm
            with self.times.timed("decode_copy"):
                copies = photo_copies(rows, side=side, cache_dir=self.cache_dir, progress=progress)
        return TrainingPhotos(
            rows,
            augment=self.augment,
            geometry=geometry,
            seed=self.args.seed,
            copies=copies,
            fixed_views=self.speed.fixed_views,
            challenge_levels=self.challenge_levels,
            sampled_tiles=self.sampled_tiles,
        )

    def selection_set(self, rows: Any, model: Any) -> Dataset:
        """The data set of evaluations during training."""
        if self.prefix is not None:
            return self._prefixes(rows, model, [None])
        with self.times.timed("features") if self.method == "probe" else nullcontext():
            return self.client_set(rows, model)

    def client_set(self, rows: Any, model: Any) -> Dataset:
        """The data set for inference: photos for the whole model, or the cached features for a probe."""
        if self.method != "probe":
            return ClientPhotos(rows, self.processor)
        return self.features(rows, model, layers=kept_layers(self.args))

    def features(self, rows: Any, model: Any, **options: Any) -> Any:
        """The cached features of rows; `options` are passed to `frozen_features`."""
        model.to(self.args.device)  # the trainer, which would do this, is not built yet
        return frozen_features(
            model,
            rows,
            self.processor,
            cache_dir=self.cache_dir,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.decode_workers,
            budget_gb=self.speed.cache_gb,
            passes=self.passes["features"],
            **options,
        )

    def _prefixes(self, rows: Any, model: Any, views: list, seeds: Any = None) -> Dataset:
        model.to(self.args.device)
        with self.times.timed("prefix"):
            return prefix_rows(
                model,
                rows,
                self.processor,
                self.prefix,
                views=views,
                seeds=seeds,
                cache_dir=self.cache_dir,
                batch_size=self.args.per_device_eval_batch_size,
                num_workers=self.decode_workers,
                budget_gb=self.speed.prefix_cache_gb,
                passes=self.passes["prefixes"],
            )

    def _views(self, count: int) -> list[FixedView]:
        return [FixedView(self.augment, self.args.seed, number, self.challenge_levels) for number in range(count)]

    def _cut_set(self, rows: Any, model: Any, scored: int) -> Dataset:
        plain = plain_model(model)
        config = plain.config.backbone_config
        geometry = Geometry.of(self.processor)
        tokens = geometry.tokens(config.patch_size, beside=1 + config.num_register_tokens)
        self.prefix = plan_prefix(
            self.speed.prefix_cache_gb,
            blocks=max(trained_blocks(model), plain.config.feature_layers - 1, 1),
            layers=config.num_hidden_layers,
            values=tokens * config.hidden_size,
            photos=len(rows),
            scored=scored,
            epochs=self.args.num_train_epochs,
            views=self.speed.fixed_views,
            augmented=self.augment != "none",
        )
        plain.last_blocks, plain.prefix_size = self.prefix.blocks, (geometry.height, geometry.width)
        if self.args.should_log:
            print(self.prefix.line(self.speed.prefix_cache_gb))
        kept = self._prefixes(rows, model, self._views(self.prefix.views), (self.args.seed, rows["id"][:]))
        if self.prefix.precision == "bfloat16":
            self.drift = prefix_drift(model, rows, self.processor, self.prefix.blocks)
            if self.args.should_log:
                print(f"prefix cache: bf16 changes the features by {self.drift:.2%} of their spread (first photos)")
        return kept
