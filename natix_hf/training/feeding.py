"""What a step of `NatixTrainer` reads: views of photos, cached features of a probe, or activations at the cut.

Rows come from the locked splits; which of them a step may see is decided there. In what order they come stands in
`views.py` and `sampling.py`, how caches are kept in `inference/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from peft import PeftModel
from torch.utils.data import Dataset

from natix_hf.decision.prior import prior_warning
from natix_hf.inference.batches import ClientPhotos
from natix_hf.inference.features import FixedView, frozen_features
from natix_hf.inference.pass_costs import Passes
from natix_hf.photos.copies import photo_copies
from natix_hf.photos.geometry import Geometry
from natix_hf.training.curriculum import plan_curriculum
from natix_hf.training.prefix import PrefixPlan, plan_prefix, prefix_drift, prefix_rows, trained_blocks
from natix_hf.training.probe import kept_layers
from natix_hf.training.sampling import Strata, StratifiedSampler, seen_shares
from natix_hf.training.saving import SavesWholeCheckpoints
from natix_hf.training.training_photos import EpochSampler, TrainingPhotos


class FeedsPhotos(SavesWholeCheckpoints):
    """The part of `NatixTrainer` that turns rows into data sets; it reads the options that the trainer was given."""

    prefix: PrefixPlan | None = None  # what is kept below the last blocks, where anything is
    drift: float | None = None  # how far features move by it, where it is rounded

    @cached_property
    def passes(self) -> dict[str, Passes]:
        """What the passes of this run cost, by the cache that they fill."""
        return {"features": Passes(), "prefixes": Passes()}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of a block to a phase of `run.json`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.times[phase] = round(self.times.get(phase, 0.0) + time.perf_counter() - begin, 3)

    def prefix_document(self) -> dict[str, Any] | None:
        """The `prefix` of `run.json`: what was kept below the last blocks, and how far rounding moves features."""
        return None if self.prefix is None else asdict(self.prefix) | {"drift": self.drift}

    def client_set(self, rows: Any, model: Any, processor: Any, args: Any) -> Dataset:
        """Rows on the client's path, by the whole model; for a probe their cached features."""
        if self.method != "probe":
            return ClientPhotos(rows, processor)
        return self._features(rows, model, processor, args)

    def _features(self, rows: Any, model: Any, processor: Any, args: Any, views: list[FixedView] | None = None) -> Any:
        model.to(args.device)  # before the parent does it, since the features are wanted before the parent is there
        return frozen_features(
            model,
            rows,
            processor,
            cache_dir=self.cache_dir,
            layers=kept_layers(args),
            views=views or (),
            batch_size=args.per_device_eval_batch_size,
            num_workers=self.decode_workers,
            budget_gb=self.cache_gb,
            passes=self.passes["features"],
        )

    def selection_set(self, rows: Any, model: Any, processor: Any, args: Any) -> Dataset:
        """Rows that are scored while training."""
        if self.prefix is None:
            if self.method != "probe":
                return self.client_set(rows, model, processor, args)
            with self.timed("features"):
                return self.client_set(rows, model, processor, args)
        return self._prefixes(rows, model, processor, args, [None])

    def _prefixes(self, rows: Any, model: Any, processor: Any, args: Any, views: list, seeds: Any = None) -> Dataset:
        model.to(args.device)
        with self.timed("prefix"):
            return prefix_rows(
                model,
                rows,
                processor,
                self.prefix,
                views=views,
                seeds=seeds,
                cache_dir=self.cache_dir,
                batch_size=args.per_device_eval_batch_size,
                num_workers=self.decode_workers,
                budget_gb=self.prefix_cache_gb,
                passes=self.passes["prefixes"],
            )

    def training_set(self, rows: Any, model: Any, processor: Any, augment: str, args: Any) -> Dataset:
        """Rows as they are trained on."""
        views = self._fixed_views(augment, args.seed, self.fixed_views)
        if self.method == "probe":
            with self.timed("features"):
                return self._features(rows, model, processor, args, views)
        if self.prefix_cache_gb is not None:
            return self._cut_set(rows, model, processor, augment, args)
        geometry, copies = Geometry.of(processor), None
        if self.decode_copy:
            side = geometry.copy_side(self.decode_copy_side)
            with self.timed("decode_copy"):
                copies = photo_copies(rows, side=side, cache_dir=self.cache_dir, progress=not args.disable_tqdm)
        return TrainingPhotos(
            rows,
            augment=augment,
            geometry=geometry,
            seed=args.seed,
            copies=copies,
            fixed_views=self.fixed_views,
            challenge_levels=self.challenge_levels,
        )

    def _fixed_views(self, augment: str, seed: int, count: int) -> list[FixedView]:
        levels = None if self.challenge_levels is None else tuple(self.challenge_levels)
        return [FixedView(augment, seed, number, levels) for number in range(count)]

    def _cut_set(self, rows: Any, model: Any, processor: Any, augment: str, args: Any) -> Dataset:
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        config = plain.config.backbone_config
        tokens = Geometry.of(processor).tokens(config.patch_size, beside=1 + config.num_register_tokens)
        self.prefix = plan_prefix(
            self.prefix_cache_gb,
            blocks=max(trained_blocks(model), plain.config.feature_layers - 1, 1),
            layers=config.num_hidden_layers,
            values=tokens * config.hidden_size,
            photos=len(rows),
            scored=self.splits.sizes["val_select"],
            epochs=args.num_train_epochs,
            views=self.fixed_views,
            augmented=augment != "none",
        )
        plain.last_blocks = self.prefix.blocks
        if args.should_log:
            print(self.prefix.told(self.prefix_cache_gb))
        views = self._fixed_views(augment, args.seed, self.prefix.views)
        kept = self._prefixes(rows, model, processor, args, views, (args.seed, rows["id"][:]))
        if self.prefix.precision == "bfloat16":
            self.drift = prefix_drift(model, rows, processor, self.prefix.blocks)
            if args.should_log:
                print(f"prefix cache: bf16 moves the features by {self.drift:.2%} of their spread (first photos)")
        return kept

    def make_sampler(self, rows: Any, model: Any, processor: Any, args: Any) -> EpochSampler:
        """What every epoch is made of; says how far its class shares are from those expected."""
        seed = args.data_seed if args.data_seed is not None else args.seed
        labels, names = np.array(rows["label"][:]), self.label_list
        strata = Strata(labels, rows["source"][:], names, args.sampling, args.balance_by)
        cells = {"names": names, "cells": strata.cells, "cache_dir": self.cache_dir}
        with self.timed("curriculum") if args.curriculum != "none" else nullcontext():
            passes = self.passes["features"]
            self.curriculum = plan_curriculum(args, model, rows, processor, **cells, passes=passes)
        seen = seen_shares(strata.shares(), self.criterion)
        own = np.bincount(labels, minlength=len(names)) / len(labels)
        # The shares to which the logits will belong, where they are not those of the photos.
        self.training_shares = None if np.allclose(seen, own, rtol=1e-3) else seen.tolist()
        far = None if self.target_prior is None else prior_warning(seen, self.target_prior, names)
        if far and args.should_log:
            print(f"warning: {far}")
        if self.curriculum is None and strata.natural:
            return EpochSampler(len(rows), seed)
        return StratifiedSampler(strata, seed, self.curriculum and self.curriculum.admitted)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochSampler:
        return self.sampler
