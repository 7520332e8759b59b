"""What training minimises: a weighted sum of terms such as `focal+0.1*supcon`, with class weights and prior.

Every term is a mean over the rows of a batch, so that accumulation and several processes give the gradient of one
large batch; `supcon`, `koleo` and `lcron` compare the rows of a batch with each other and see the rows of one step on
one process only. Class weights are scaled to a mean of 1 over the rows of train and the sum is divided by the number
of rows: over the whole of train that is torch's weighted mean, while torch's mean of a batch, divided by the weights
that happen to be in it, would depend on how rows are grouped. This module knows logits, features and labels; how
models are evaluated is not its business: there it is always plain cross-entropy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from natix_hf.errors import UserError
from natix_hf.training.defaults import off
from natix_hf.training.feature_losses import Projection, koleo, supcon
from natix_hf.training.logit_losses import asymmetric, cross_entropy, focal, gatekeeper
from natix_hf.training.ranking_losses import lcron


class Term(NamedTuple):
    """What a loss can take, besides class ids."""

    soft_labels: bool = False  # rows of probabilities, from mixing
    smoothing: bool = False  # label_smoothing_factor
    weights: bool = False  # class_weights
    features: bool = False  # it reads features, and leaves the head as it is
    rows: int = 1  # the least rows of a batch that mean anything to it


TERMS = {
    "ce": Term(soft_labels=True, smoothing=True, weights=True),
    "focal": Term(soft_labels=True, smoothing=True, weights=True),
    "asymmetric": Term(weights=True),
    "gatekeeper": Term(weights=True),
    "lcron": Term(rows=2),
    "supcon": Term(features=True, rows=2),
    "koleo": Term(features=True, rows=2, soft_labels=True),
}


def loss_terms(loss: str) -> dict[str, float]:
    """The terms of a sum with their weights: `focal+0.1*supcon` is `{"focal": 1.0, "supcon": 0.1}`.

    Raises:
        UserError: an unknown or repeated term, a weight that is no positive number, or features alone.
    """
    terms: dict[str, float] = {}
    for part in loss.split("+"):
        number, star, name = part.rpartition("*")
        number, name = number.strip() if star else "1", name.strip()
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if name not in TERMS:
            near = difflib.get_close_matches(name, TERMS, 1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(f"loss {loss}: unknown term '{name}'; {guess}there are {', '.join(TERMS)}")
        if not 0 < weight < math.inf:
            raise UserError(f"loss {loss}: weight '{number}' of {name}: a positive number expected, as in 0.1*{name}")
        if name in terms:
            raise UserError(f"loss {loss}: {name} stands twice: write it once, with one weight")
        terms[name] = weight
    if all(TERMS[name].features for name in terms):
        raise UserError(f"loss {loss}: trains the features and not the head: add a term, as in ce+{loss}")
    return terms


def accepts_soft_labels(loss: str) -> bool:
    """Whether every term of a loss can take rows of probabilities `(n, classes)` for labels."""
    return all(TERMS[name].soft_labels for name in loss_terms(loss))


def check_loss(args: Any, method: str) -> None:
    """Refuse losses and options of losses that cannot work, before anything is read.

    Args:
        args: `NatixTrainingArguments`.
        method: `lora`, `probe` or `full`.

    Raises:
        UserError: one line on the first of them.
    """
    terms = loss_terms(args.loss)
    mixed = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(args, key)]
    for name in terms:
        term = TERMS[name]
        if mixed and not term.soft_labels:
            raise UserError(
                f"loss {args.loss}: {name} takes one class per photo and mixed photos have several: "
                f"leave {' and '.join(mixed)} out with {off(*mixed)}, or use --loss ce or focal"
            )
        if args.per_device_train_batch_size < term.rows:
            raise UserError(
                f"loss {args.loss}: {name} compares the photos of a batch with each other: "
                f"per_device_train_batch_size of at least {term.rows} expected: add --per_device_train_batch_size "
                f"{term.rows}, or use --loss ce"
            )
        if method == "probe" and term.features:
            raise UserError(
                f"loss {args.loss}: {name} trains the backbone's features, which method probe leaves as they are: "
                "use --loss ce, or --method lora or full"
            )
    for key, used in (("label_smoothing_factor", "smoothing"), ("class_weights", "weights")):
        if getattr(args, key) and not any(getattr(TERMS[name], used) for name in terms):
            able = ", ".join(name for name, term in TERMS.items() if getattr(term, used))
            raise UserError(
                f"{key}: has no meaning for loss {args.loss}; it works with {able}: leave it out with {off(key)}"
            )
    _check_numbers(args)
    if args.focal_alpha and args.class_weights and "focal" in terms:
        raise UserError(
            "focal_alpha and class_weights both weigh the classes: leave one of them out with --focal_alpha null or "
            "--class_weights null"
        )
    if args.class_weights:
        _numbers("class_weights", args.class_weights)
    if args.focal_alpha:
        _numbers("focal_alpha", args.focal_alpha)


def _check_numbers(args: Any) -> None:
    for key in ("logit_adjustment", "focal_gamma", "asymmetric_gamma_pos", "asymmetric_gamma_neg"):
        if not 0 <= getattr(args, key) < math.inf:
            raise UserError(f"{key}: {getattr(args, key)} given, 0 or a positive number expected")
    for key in ("supcon_temperature", "lcron_temperature"):
        if not 0 < getattr(args, key) < math.inf:
            raise UserError(f"{key}: {getattr(args, key)} given, a positive number expected")
    for key in ("label_smoothing_factor", "asymmetric_smoothing"):
        if not 0 <= getattr(args, key) < 1:
            raise UserError(f"{key}: {getattr(args, key)} given, a number from 0 to below 1 expected")
    if not 0 <= args.gatekeeper_alpha <= 1:
        raise UserError(f"gatekeeper_alpha: {args.gatekeeper_alpha} given, a number from 0 to 1 expected")
    top, rows = args.lcron_top_k, args.per_device_train_batch_size
    if top is not None and not 1 <= top < rows and "lcron" in args.loss:
        raise UserError(
            f"lcron_top_k: {top} given, 1 to {rows - 1} expected, below "
            f"per_device_train_batch_size: leave it out with {off('lcron_top_k')} for as many as are positive"
        )


def _numbers(key: str, given: Any) -> list[float] | None:
    """A recipe's weights as numbers; None for `balanced`."""
    words = [given] if isinstance(given, str) else list(given)
    if key == "class_weights" and words == ["balanced"]:
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(0 < value < math.inf for value in values):
        expected = "balanced or positive numbers, one per class," if key == "class_weights" else "positive numbers"
        raise UserError(f"{key}: {' '.join(map(str, words))} given, {expected} expected")
    return values


def class_weights(given: str | Sequence[str | float], counts: Sequence[int], names: Sequence[str]) -> Tensor:
    """Weights `(classes,)` whose mean over the rows of train is 1, so that a learning rate keeps its meaning.

    Args:
        given: `balanced` for the inverse of each class's share, or one number per class; only ratios matter.
        counts: `(classes,)` rows of train.
        names: `(classes,)`, for messages.

    Raises:
        UserError: another number of weights than of classes, or a class without a row that is to be balanced.
    """
    values = _numbers("class_weights", given)
    if values is None:
        _refuse_empty("class_weights: balanced", counts, names)
        values = [1 / count for count in counts]
    if len(values) != len(counts):
        raise UserError(
            f"class_weights: {len(values)} numbers given, {len(counts)} expected, one for each of {', '.join(names)}"
        )
    weights = torch.tensor(values, dtype=torch.float64)
    rows = torch.tensor(counts, dtype=torch.float64)
    return (weights * rows.sum() / (weights * rows).sum()).float()


def _refuse_empty(key: str, counts: Sequence[int], names: Sequence[str]) -> None:
    if 0 in counts:
        way = off(key.partition(":")[0])
        raise UserError(f"{key}: train has no photo of class {names[list(counts).index(0)]}: leave it out with {way}")


class TrainingLoss:
    """The loss that a recipe asks for, on the outputs of a model in training.

    Args:
        args: `NatixTrainingArguments`.
        counts: `(classes,)` rows of train.
        names: `(classes,)` class names.
        positive: the class that `lcron` ranks before all others.

    Raises:
        UserError: weights that do not fit the classes, a prior with an empty class, or rows of train that give a term
            that compares them nothing to compare.
    """

    def __init__(self, args: Any, counts: Sequence[int], names: Sequence[str], positive: int) -> None:
        self.args, self.terms, self.positive = args, loss_terms(args.loss), positive
        self.names, self.warned = list(names), set[str]()
        self._check_rows(counts)
        self.projection: Projection | None = None
        self.weights = class_weights(args.class_weights, counts, names) if args.class_weights else None
        self.focal_weights = self.weights
        if args.focal_alpha:
            alpha = _numbers("focal_alpha", args.focal_alpha)
            if len(alpha) == 1 and len(counts) == 2 and alpha[0] < 1:
                alpha = [alpha[0] if i == positive else 1 - alpha[0] for i in range(2)]
            if len(alpha) != len(counts):
                raise UserError(f"focal_alpha: {len(alpha)} numbers given, {len(counts)} expected, one per class")
            self.focal_weights = torch.tensor(alpha)
        self.adjustment = None  # (classes,)
        if args.logit_adjustment:
            _refuse_empty("logit_adjustment", counts, names)
            prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
            self.adjustment = (args.logit_adjustment * prior.log()).float()

    def _check_rows(self, counts: Sequence[int]) -> None:
        """Refuse rows of train of which no batch could ever have what a term compares."""
        name, rows = self.names[self.positive], sum(counts)
        if "lcron" in self.terms and counts[self.positive] in (0, rows):
            found = "no photo is" if counts[self.positive] == 0 else "all photos are"
            raise UserError(
                f"loss {self.args.loss}: lcron puts class {name} before the others, and in train {found} of it: set "
                "positive_label, or leave lcron out"
            )
        if "supcon" in self.terms and (max(counts) < 2 or max(counts) == rows):
            raise UserError(
                f"loss {self.args.loss}: supcon compares photos of one class with those of others, and train has none "
                "to compare: leave supcon out"
            )

    def _nothing_in_it(self, name: str, rows: int, what: str) -> None:
        """Say once that a batch had nothing to compare; the rest of an epoch, a smaller batch, is no news."""
        if name in self.warned or rows < self.args.per_device_train_batch_size or not self.args.should_log:
            return
        self.warned.add(name)
        tqdm.write(
            f"warning: loss {self.args.loss}: a batch of {rows} photos has {what}: {name} is 0 there, and in others "
            "like it, which are not told; a larger per_device_train_batch_size or sampling: balanced makes them rarer"
        )

    def compute(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        """Loss and outputs of a batch: this loss while the model trains, else plain cross-entropy.

        Scores of runs with different losses can then be compared.
        """
        if not model.training:
            outputs = model(**batch)
            return outputs.loss, outputs
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        if any(TERMS[name].features for name in self.terms):
            inputs["output_features"] = True
        outputs = model(**inputs)
        return self(outputs, batch["labels"]), outputs

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: of the model, with `logits` `(n, classes)` and, for terms on features, `features`.
            labels: `(n,)` class ids, or `(n, classes)` probabilities where every term takes them.
        """
        logits = outputs.logits.float()
        if self.adjustment is not None:
            # Menon et al. (2021): the model that fits the adjusted logits has the unadjusted ones of an even prior.
            logits = logits + self.adjustment.to(logits.device)
        total = [weight * self._term(name, logits, labels, outputs) for name, weight in self.terms.items()]
        return total[0] if len(total) == 1 else torch.stack(total).sum()

    def _term(self, name: str, logits: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        args, device = self.args, logits.device
        weights = None if self.weights is None else self.weights.to(device)
        alpha = None if self.focal_weights is None else self.focal_weights.to(device)
        smoothing = args.label_smoothing_factor
        functions: dict[str, Callable[[], Tensor]] = {
            "ce": lambda: cross_entropy(logits, labels, weights, smoothing),
            "focal": lambda: focal(logits, labels, args.focal_gamma, alpha, smoothing),
            "asymmetric": lambda: asymmetric(
                logits,
                labels,
                args.asymmetric_gamma_pos,
                args.asymmetric_gamma_neg,
                args.asymmetric_smoothing,
                weights,
            ),
            "gatekeeper": lambda: gatekeeper(logits, labels, args.gatekeeper_alpha, weights),
            "lcron": lambda: self._lcron(logits, labels == self.positive),
            "supcon": lambda: self._supcon(outputs.projected.float(), labels),
            "koleo": lambda: koleo(outputs.features.float()),
        }
        return functions[name]()

    def _lcron(self, logits: Tensor, relevant: Tensor) -> Tensor:
        others = torch.arange(logits.shape[1], device=logits.device) != self.positive
        scores = logits[:, self.positive] - logits[:, others].logsumexp(dim=1)  # log odds of the positive class
        count = int(relevant.sum())
        if count in (0, len(relevant)):
            what = "no photo" if count == 0 else "only photos"
            self._nothing_in_it("lcron", len(relevant), f"{what} of class {self.names[self.positive]}")
        top = count if self.args.lcron_top_k is None else min(self.args.lcron_top_k, len(scores) - 1)
        return lcron([scores], relevant, [top], self.args.lcron_temperature)

    def _supcon(self, projected: Tensor, labels: Tensor) -> Tensor:
        most = int(labels.bincount().max())
        if most < 2 or most == len(labels):
            what = "no two photos of one class" if most < 2 else "photos of one class only"
            self._nothing_in_it("supcon", len(labels), what)
        return supcon(projected, labels, self.args.supcon_temperature)

    # -- the projection head of supcon --------------------------------------------------------------------------------

    def attach(self, model: nn.Module, seed: int) -> None:
        """Give a `NatixDinov3ForImageClassification` the projection head that this loss trains along, if any."""
        if "supcon" in self.terms:
            self.projection = Projection(model.feature_size, seed).to(model.device)
            self.projection.attach(model)

    def detach(self, model: nn.Module) -> None:
        """Take it off again: what follows training knows nothing of it."""
        if self.projection is not None:
            self.projection.detach(model)
            self.projection = None

    def save(self, folder: Path) -> None:
        """Write what a checkpoint has to hold for this loss."""
        if self.projection is not None:
            self.projection.save(folder)

    def load(self, folder: str | Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it was written with another loss.
        """
        Projection.check(folder, wanted=self.projection is not None)
        if self.projection is not None:
            self.projection.load(folder)
