"""The loss of a run: the sum of its terms, with class weights, logit adjustment and the projection of a term.

Evaluation always uses plain cross-entropy, so that runs with different losses can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from natix_hf.errors import UserError
from natix_hf.training.losses.check_loss import chosen_losses, loss_terms
from natix_hf.training.losses.class_weights import class_weights, no_photo
from natix_hf.training.losses.loss import Classes, Rows
from natix_hf.training.losses.projection import Projection


class TrainingLoss:
    """The loss of a recipe, computed on the outputs of a model in training.

    Args:
        args: `NatixTrainingArguments`.
        counts: `(classes,)` number of rows in train.
        names: `(classes,)` class names.
        positive: id of the class that `lcron` ranks above all others.

    Raises:
        UserError: the weights do not fit the classes, a class without rows rules out the logit adjustment, or train
            has nothing for a term to compare.
    """

    def __init__(self, args: Any, counts: Sequence[int], names: Sequence[str], positive: int) -> None:
        self.args, self.terms, self.losses = args, loss_terms(args.loss), chosen_losses(args)
        self.classes = Classes(list(names), counts, positive)
        self.warned: set[str] = set()
        for loss in self.losses.values():
            if why := loss.lacks_in_train(self.classes):
                raise UserError(f"loss {args.loss}: {why}")
        self.projection: Projection | None = None
        self.weights = class_weights(args.class_weights, counts, names) if args.class_weights else None
        own_weights = {name: loss.own_weights(self.classes) for name, loss in self.losses.items()}
        self.weights_of = {name: self.weights if weights is None else weights for name, weights in own_weights.items()}
        # The effective class shares of training are multiplied by these.
        self.seen_weights = next((weights for weights in own_weights.values() if weights is not None), self.weights)
        self.adjustment = None  # (classes,)
        if args.logit_adjustment:
            if 0 in counts:
                raise UserError(no_photo("logit_adjustment", counts, names, "--logit_adjustment 0"))
            prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
            self.adjustment = (args.logit_adjustment * prior.log()).float()

    def _nothing_in_it(self, name: str, rows: int, what: str) -> None:
        """Warn once that a batch had nothing to compare; the smaller last batch of an epoch does not count."""
        if name in self.warned or rows < self.args.per_device_train_batch_size or not self.args.should_log:
            return
        self.warned.add(name)
        tqdm.write(
            f"warning: loss {self.args.loss}: a batch of {rows} photos has {what}, so {name} is 0 there (reported "
            "once); a larger per_device_train_batch_size or sampling: balanced makes this rarer"
        )

    def compute(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Loss and outputs of a batch: this loss if the model is in training mode, else plain cross-entropy."""
        if not model.training:
            outputs = model(**batch)
            return outputs.loss, outputs
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        if any(loss.features for loss in self.losses.values()):
            inputs["output_features"] = True
        outputs = model(**inputs)
        return self(outputs, batch["labels"]), outputs

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: of the model, with `logits` `(n, classes)` and, for terms on features, `features`.
            labels: `(n,)` class ids, or `(n, classes)` probabilities if every term supports them.
        """
        logits = outputs.logits.float()
        if self.adjustment is not None:
            # Menon et al. (2021): if the adjusted logits fit train, the unadjusted ones fit equal class shares.
            logits = logits + self.adjustment.to(logits.device)
        total = []
        for name, loss in self.losses.items():
            weights = self.weights_of[name]
            weights = None if weights is None else weights.to(logits.device)
            smoothing = self.args.label_smoothing_factor
            rows = Rows(logits, labels, weights, smoothing, self.classes.positive, outputs)
            if what := loss.lacks(rows, self.classes):
                self._nothing_in_it(name, len(labels), what)
            total.append(self.terms[name] * loss(rows))
        return total[0] if len(total) == 1 else torch.stack(total).sum()

    # -- the projection of a term on features -------------------------------------------------------------------------

    def attach(self, model: nn.Module, seed: int) -> None:
        """Add the projection head of this loss, if any, to a `NatixDinov3ForImageClassification`."""
        if any(loss.projected for loss in self.losses.values()):
            self.projection = Projection(model.feature_size, seed).to(model.device)
            self.projection.attach(model)

    def detach(self, model: nn.Module) -> None:
        """Remove the projection head after training."""
        if self.projection is not None:
            self.projection.detach(model)
            self.projection = None

    def save(self, folder: Path) -> None:
        """Write the state of this loss into a checkpoint."""
        if self.projection is not None:
            self.projection.save(folder)

    def load(self, folder: str | Path) -> None:
        """Read the state of this loss from a checkpoint.

        Raises:
            UserError: the checkpoint was written with another loss.
        """
        Projection.check(folder, wanted=self.projection is not None)
        if self.projection is not None:
            self.projection.load(folder)
