"""Losses of single rows against literal values, closed forms and other people's code; sums, weights, prior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers.modeling_outputs import ImageClassifierOutput

from natix_hf import NatixTrainingArguments, UserError
from natix_hf.training.losses import LOSSES
from natix_hf.training.losses.asymmetric import asymmetric
from natix_hf.training.losses.ce import cross_entropy
from natix_hf.training.losses.check_loss import check_loss, loss_terms
from natix_hf.training.losses.class_weights import class_weights
from natix_hf.training.losses.focal import focal
from natix_hf.training.losses.gatekeeper import gatekeeper
from natix_hf.training.losses.training_loss import TrainingLoss
from natix_hf.training.options_without_effect import without_effect

LN3 = math.log(3)
NAMES = ["None", "Roadwork"]


@pytest.fixture
def batch():
    """Logits `(6, 3)` in float64 that want a gradient, and class ids."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 1])


@pytest.fixture
def arguments(tmp_path):
    """Training arguments with the defaults of the recipe and what is given."""
    return lambda **given: NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


# -- values -----------------------------------------------------------------------------------------------------------

# The model gives the class of the row 3/4, the other 1/4.
SURE = torch.tensor([[LN3, 0.0]])
ZERO, ONE = torch.tensor([0]), torch.tensor([1])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (cross_entropy(SURE, ZERO), math.log(4 / 3)),
        (cross_entropy(SURE, ONE, torch.tensor([1.0, 2.0])), 2 * math.log(4)),
        (cross_entropy(SURE, ZERO, None, 0.2), 0.9 * math.log(4 / 3) + 0.1 * math.log(4)),
        (cross_entropy(SURE, torch.tensor([[0.3, 0.7]])), 0.3 * math.log(4 / 3) + 0.7 * math.log(4)),
        (focal(SURE, ZERO, 2.0), math.log(4 / 3) / 16),
        (focal(SURE, ONE, 2.0), math.log(4) * 9 / 16),
        (focal(SURE, ONE, 2.0, torch.tensor([0.75, 0.25])), 0.25 * math.log(4) * 9 / 16),
        (focal(SURE, torch.tensor([[0.5, 0.5]]), 1.0), 0.5 * (math.log(4 / 3) / 4 + math.log(4) * 3 / 4)),
        (asymmetric(SURE, ZERO, 1.0, 2.0, 0.2), 0.9 * math.log(4 / 3) / 4 + 0.1 * math.log(4) / 16),
        (gatekeeper(SURE, ZERO, 0.3), 0.3 * math.log(4 / 3)),
        (gatekeeper(SURE, ONE, 0.3), 0.7 * (0.75 * math.log(0.75) + 0.25 * math.log(0.25) + math.log(2))),
    ],
)
def test_a_row_of_known_probabilities_has_the_loss_of_the_formula(value, expected):
    assert float(value) == pytest.approx(expected, rel=1e-5)


FUNCTIONS = {
    "ce": cross_entropy,
    "ce, weights, smoothing": lambda x, y: cross_entropy(x, y, torch.tensor([1.0, 2.0, 0.5]).double(), 0.1),
    "focal": focal,
    "focal, fractional gamma": lambda x, y: focal(x, y, 0.5, torch.tensor([1.0, 2.0, 0.5]), 0.1),
    "asymmetric": asymmetric,
    "asymmetric, all options": lambda x, y: asymmetric(x, y, 1.0, 2.0, 0.2, torch.tensor([1.0, 2.0, 0.5])),
    "gatekeeper": gatekeeper,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_agree_with_finite_differences(batch, name):
    logits, labels = batch
    assert torch.autograd.gradcheck(lambda x: FUNCTIONS[name](x, labels), logits)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_loss_and_gradient_is_finite_where_the_model_is_certain(name):
    logits = torch.tensor([[200.0, 0.0, -200.0], [200.0, 0.0, -200.0], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = FUNCTIONS[name](logits.double() if "weights" in name else logits, torch.tensor([0, 2, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_focal_without_gamma_is_cross_entropy(batch):
    logits, labels = batch
    for smoothing in (0.0, 0.1):
        assert_close(focal(logits, labels, 0.0, None, smoothing), cross_entropy(logits, labels, None, smoothing))
    soft = logits.detach().softmax(dim=1)
    assert_close(focal(logits, soft, 0.0), cross_entropy(logits, soft))


def test_asymmetric_without_gammas_is_cross_entropy(batch):
    logits, labels = batch
    for smoothing in (0.0, 0.1):
        expected = cross_entropy(logits, labels, None, smoothing)
        assert_close(asymmetric(logits, labels, 0.0, 0.0, smoothing), expected)


def test_asymmetric_agrees_with_timm(batch):
    timm = pytest.importorskip("timm.loss")
    logits, labels = batch
    for pos, neg, smoothing in ((0, 4, 0.1), (1, 2, 0.3), (1, 4, 0.0)):
        theirs = timm.AsymmetricLossSingleLabel(gamma_pos=pos, gamma_neg=neg, eps=smoothing)(logits, labels)
        assert_close(asymmetric(logits, labels, pos, neg, smoothing), theirs)


def test_weighted_cross_entropy_over_all_of_train_is_torch_s_weighted_mean(batch):
    """And the mean over the rows of batches of any size is the same."""
    logits, labels = batch
    weights = class_weights([1, 3, 0.5], torch.bincount(labels).tolist(), "abc").double()
    whole = cross_entropy(logits, labels, weights)
    assert_close(whole, F.cross_entropy(logits, labels, weight=weights))
    halves = [cross_entropy(logits[part], labels[part], weights) for part in (slice(0, 3), slice(3, 6))]
    assert_close(torch.stack(halves).mean(), whole)


# -- the sum that a recipe asks for -----------------------------------------------------------------------------------


def test_a_sum_of_terms_is_read_with_its_weights():
    assert loss_terms("ce") == {"ce": 1.0}
    assert loss_terms("focal+0.1*supcon") == {"focal": 1.0, "supcon": 0.1}
    assert loss_terms(" 2 * ce + koleo ") == {"ce": 2.0, "koleo": 1.0}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("focl", "loss focl: unknown term 'focl'; did you mean 'focal'? expected one of ce, focal, asymmetric, "),
        ("ce+", "unknown term ''; expected one of ce, "),
        ("ce+0.1*", "unknown term ''"),
        ("ce+x*focal", "weight of focal: expected a positive number, such as 0.1*focal; found 'x'"),
        ("ce+0*focal", "such as 0.1*focal; found '0'"),
        ("ce+-1*focal", "such as 0.1*focal; found '-1'"),
        ("ce+nan*focal", "such as 0.1*focal; found 'nan'"),
        ("ce+0.5*ce", "ce is given twice"),
        ("supcon", "loss supcon: trains the features but not the head: add a term, such as ce+supcon"),
        ("0.1*koleo+supcon", "add a term, such as ce+0.1*koleo+supcon"),
    ],
)
def test_a_sum_that_cannot_be_read_is_refused_in_one_line(loss, message):
    with pytest.raises(UserError) as caught:
        loss_terms(loss)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_soft_labels_are_for_losses_that_can_take_them():
    assert {name for name, kind in LOSSES.items() if kind.soft_labels} == {"ce", "focal", "koleo"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "ce+supcon", "mixup_alpha": 0.2}, "supcon needs one class per photo"),
        ({"loss": "gatekeeper", "cutmix_alpha": 1.0}, "gatekeeper needs one class per photo"),
        ({"loss": "ce+supcon", "per_device_train_batch_size": 1}, "per_device_train_batch_size of at least 2"),
        ({"loss": "lcron", "per_device_train_batch_size": 1}, "per_device_train_batch_size of at least 2"),
        (
            {"loss": "gatekeeper", "label_smoothing_factor": 0.1},
            "label_smoothing_factor: has no effect on loss",
        ),
        ({"loss": "asymmetric", "label_smoothing_factor": 0.1}, "only on ce, focal"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor: expected a number from 0 to below 1, found 1.0"),
        ({"loss": "lcron", "class_weights": "balanced"}, "class_weights: has no effect on loss lcron"),
        (
            {"class_weights": ["1", "-2"]},
            "class_weights: expected balanced or positive numbers, one per class; found 1 -2",
        ),
        ({"class_weights": ["balance"]}, "one per class; found balance"),
        ({"loss": "focal", "class_weights": [1, 2], "focal_alpha": [1, 2]}, "leave one of them out"),
        ({"loss": "focal", "focal_alpha": [0.0]}, "focal_alpha: expected positive numbers, found 0.0"),
        ({"loss": "focal", "focal_gamma": -1.0}, "focal_gamma: expected 0 or a positive number, found -1.0"),
        ({"logit_adjustment": math.inf}, "found inf"),
        (
            {"loss": "gatekeeper", "gatekeeper_alpha": 1.5},
            "gatekeeper_alpha: expected a number from 0 to 1, found 1.5",
        ),
        ({"loss": "ce+lcron", "lcron_temperature": 0.0}, "found 0.0"),
        (
            {"loss": "ce+lcron", "lcron_top_k": 16},
            "lcron_top_k: expected 1 to 15, below per_device_train_batch_size; found 16",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_read(arguments, given, message):
    with pytest.raises(UserError) as caught:
        check_loss(arguments(**given), "lora")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", ["ce+0.1*supcon", "focal+koleo"])
def test_a_probe_has_no_features_to_train(arguments, loss):
    with pytest.raises(UserError, match="which method probe does not change"):
        check_loss(arguments(loss=loss), "probe")


# -- class weights ----------------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 9 + [1] * 1 + [2] * 5
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(["balanced"], [9, 1, 5], "abc").tolist() == pytest.approx(expected)


def test_given_weights_have_a_mean_of_one_over_the_rows_of_train():
    weights = class_weights(["1", "3"], [8, 2], NAMES)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert float(weights @ torch.tensor([0.8, 0.2])) == pytest.approx(1)


# -- the loss of a batch ----------------------------------------------------------------------------------------------


def of(arguments, logits, labels, counts=(30, 10, 20), positive=1, **given):
    loss = TrainingLoss(arguments(**given), counts, "abc"[: len(counts)], positive)
    return loss(ImageClassifierOutput(logits=logits.float()), labels)


def test_terms_are_added_with_their_weights(arguments, batch):
    logits, labels = batch
    value = of(arguments, logits, labels, loss="ce+0.5*focal+2*gatekeeper", focal_gamma=3.0, gatekeeper_alpha=0.1)
    parts = cross_entropy(logits, labels) + 0.5 * focal(logits, labels, 3.0) + 2 * gatekeeper(logits, labels, 0.1)
    assert_close(value, parts.float())


def test_the_adjustment_is_the_log_of_the_shares_of_train(arguments, batch):
    logits, labels = batch
    adjusted = logits + 0.5 * torch.tensor([0.5, 1 / 6, 1 / 3]).log()
    value = of(arguments, logits, labels, logit_adjustment=0.5)
    assert_close(value, cross_entropy(adjusted, labels).float())
    assert_close(of(arguments, logits, labels, logit_adjustment=0.0), cross_entropy(logits, labels).float())


def test_fitting_adjusted_logits_finds_the_logits_of_an_even_prior(arguments):
    """Two rows that cannot be told apart, three times as many of class 0: 3:1 with plain cross-entropy, now 1:1."""
    labels = torch.tensor([0, 0, 0, 1])
    bias = torch.zeros(2, requires_grad=True)
    loss = TrainingLoss(arguments(logit_adjustment=1.0), [3, 1], NAMES, 1)
    optimizer = torch.optim.SGD([bias], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss(ImageClassifierOutput(logits=bias.expand(4, 2)), labels).backward()
        optimizer.step()
    assert_close(bias.softmax(dim=0), torch.tensor([0.5, 0.5]), atol=1e-4, rtol=0)


def test_focal_alpha_of_two_classes_may_be_that_of_the_positive_one(arguments):
    logits, labels = torch.tensor([[1.0, 0.0], [0.5, 2.0]]), torch.tensor([1, 0])
    one = of(arguments, logits, labels, (3, 1), loss="focal", focal_alpha=[0.25])
    assert_close(one, of(arguments, logits, labels, (3, 1), loss="focal", focal_alpha=[0.75, 0.25]))
    assert_close(one, focal(logits, labels, 2.0, torch.tensor([0.75, 0.25])))
    with pytest.raises(UserError, match="focal_alpha: expected 3 numbers, one per class; found 1"):
        of(arguments, logits, labels, loss="focal", focal_alpha=[0.25])


def test_mixed_labels_and_smoothing_reach_ce_and_focal(arguments, batch):
    logits, soft = batch[0], torch.full((6, 3), 1 / 3)
    given = {"label_smoothing_factor": 0.3, "class_weights": [1, 2, 3]}
    weights = class_weights([1, 2, 3], (30, 10, 20), "abc")
    for loss, function in (("ce", cross_entropy), ("focal", lambda *a: focal(a[0], a[1], 2.0, *a[2:]))):
        expected = function(logits.float(), soft, weights, 0.3)
        assert_close(of(arguments, logits, soft, loss=loss, **given), expected)


def test_lcron_ranks_by_the_odds_of_the_positive_class(arguments):
    """Two rows: `softplus` of the difference of their scores, whatever is added to both."""
    scores = torch.tensor([0.3, 1.7])
    logits = torch.stack([torch.zeros(2), scores], dim=1)
    expected = F.softplus(scores[1] - scores[0])
    labels = torch.tensor([1, 0])
    for given in ({}, {"lcron_top_k": 1}, {"logit_adjustment": 1.0}):
        assert_close(of(arguments, logits, labels, (3, 1), loss="lcron", **given), expected)
    assert float(of(arguments, logits, torch.tensor([0, 0]), (3, 1), loss="lcron", lcron_top_k=5)) == 0


@pytest.mark.parametrize(
    ("given", "counts", "said"),
    [
        ({"logit_adjustment": 1.0}, [3, 0], "logit_adjustment: train has no photo of class Roadwork"),
        ({"loss": "ce+lcron"}, [9, 0], "lcron ranks class Roadwork above the others, but in train no photo is of it"),
        ({"loss": "ce+lcron"}, [0, 9], "lcron ranks class Roadwork above the others, but in train all photos are"),
        ({"loss": "ce+supcon"}, [1, 1], "supcon compares photos of one class with those of others"),
        ({"class_weights": ["1", "2", "3"]}, [5, 5], "expected 2 numbers, one for each of None, Roadwork; found 3"),
        ({"class_weights": ["balanced"]}, [5, 0], "class_weights: balanced: train has no photo of class Roadwork"),
    ],
)
def test_rows_of_train_that_a_loss_cannot_work_with_are_refused(arguments, given, counts, said):
    with pytest.raises(UserError, match=said):
        TrainingLoss(arguments(**given), counts, NAMES, 1)


def test_a_batch_without_what_a_term_compares_is_told_once_and_counts_as_zero(arguments, capsys):
    args = arguments(loss="ce+lcron", per_device_train_batch_size=2)
    loss = TrainingLoss(args, [30, 3], NAMES, 1)
    logits = torch.tensor([[1.0, 0.0], [0.5, 2.0]], requires_grad=True)
    none, rest = torch.tensor([0, 0]), torch.tensor([0])
    assert_close(loss(ImageClassifierOutput(logits=logits[:1]), rest), cross_entropy(logits[:1], rest))
    assert capsys.readouterr().out == ""  # the rest of an epoch
    for _ in range(2):
        value = loss(ImageClassifierOutput(logits=logits), none)
        assert_close(value, cross_entropy(logits, none))
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].startswith(
        "warning: loss ce+lcron: a batch of 2 photos has no photo of class Roadwork, so lcron is 0"
    )
    loss(ImageClassifierOutput(logits=logits), torch.tensor([1, 1]))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"loss": "ce+focal", "focal_gamma": 3.0, "optim": "sam", "sam_rho": 0.1}, None),
        ({"focal_gamma": 2.0, "sam_rho": 0.05}, None),
        ({"focal_gamma": 3.0, "focal_alpha": [0.3]}, "focal_gamma, focal_alpha without effect, loss ce has no focal"),
        ({"sampling": "balanced", "balance_by": "source", "mixup_alpha": 0.2, "cutmix_alpha": 1.0}, None),
        ({"balance_by": "source"}, "balance_by without effect, sampling is natural"),
        ({"optim_args": "beta1=0.8"}, "optim_args without effect, optim adamw_torch_fused takes none"),
        ({"optim": "sgd", "optim_args": "momentum=0.9"}, None),
        (
            {"mixup_alpha": 0.2, "mix_switch_prob": 0.9, "curriculum_end": 0.2},
            "mix_switch_prob without effect, mixup_alpha and cutmix_alpha are not both on; "
            "curriculum_end without effect, curriculum is none",
        ),
    ],
)
def test_options_of_what_is_not_chosen_are_told(arguments, given, expected):
    assert without_effect(arguments(**given)) == expected


# -- from a recipe ----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    """A function that parses a recipe of the lines given."""
    from natix_hf.recipe.yaml_and_command_line import parse

    def parsed(*lines: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(
            "\n".join(["model_name_or_path: m", "dataset_name: d", "output_dir: o", "use_cpu: true", *lines])
        )
        return parse([str(path)])

    return parsed


def test_a_recipe_names_loss_and_weights(recipe):
    from natix_hf.recipe.yaml_and_command_line import resolved

    training = recipe("loss: focal+0.1*supcon", "class_weights: [1, 2.5]").training
    assert training.loss == "focal+0.1*supcon"
    assert class_weights(training.class_weights, [1, 1], NAMES).tolist() == pytest.approx([4 / 7, 10 / 7])
    assert recipe("class_weights: balanced").training.class_weights == ["balanced"]
    assert "loss: ce+lcron\n" in resolved(recipe("loss: ce+lcron"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["loss: focla"], "did you mean 'focal'?"),
        (["loss: supcon"], "add a term, such as ce+supcon"),
        (["loss: ce+supcon", "method: probe"], "which method probe does not change"),
        (["loss: ce+supcon", "mixup_alpha: 0.2"], "supcon needs one class per photo"),
        (["class_weights: heavy"], "one per class; found heavy"),
        (["class_weights: [1, 2]", "label_names: [a, b, c]"], "expected 3 numbers, one for each of a, b, c; found 2"),
    ],
)
def test_a_recipe_with_a_loss_that_cannot_work_is_refused_when_it_is_read(recipe, lines, message):
    with pytest.raises(UserError) as caught:
        recipe(*lines)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
