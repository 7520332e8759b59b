"""Soft sorting and the loss of a ranking against closed forms and a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from natix_hf.training.losses.lcron import lcron, log_survival, soft_permutation

SCORES = torch.tensor([0.3, 2.0, -1.0, 0.9, 0.1], dtype=torch.float64)
RELEVANT = torch.tensor([False, True, False, True, False])


def looped_survival(scores: list[float], k: int, temperature: float) -> list[float]:
    """Eq. 10 with the relaxation as its paper writes it, one number at a time."""
    n = len(scores)
    rows = []
    for i in range(1, n + 1):
        row = [((n + 1 - 2 * i) * s - sum(abs(s - t) for t in scores)) / temperature for s in scores]
        top = max(row)
        total = sum(math.exp(x - top) for x in row)
        rows.append([math.exp(x - top) / total for x in row])
    return [sum(row[j] for row in rows[:k]) / sum(row[j] for row in rows) for j in range(n)]


def looped_cross_entropy(p: list[float], relevant: list[bool]) -> float:
    return -sum(math.log(a if y else 1 - a) for a, y in zip(p, relevant, strict=True)) / len(p)


def test_rows_are_probabilities_and_turn_into_the_sorting_permutation():
    soft = soft_permutation(SCORES, 1.0).exp()
    assert_close(soft.sum(dim=1), torch.ones(5, dtype=torch.float64))
    hard = soft_permutation(SCORES, 1e-3).exp()
    assert_close(hard, F.one_hot(SCORES.argsort(descending=True), 5).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_survival_is_that_of_the_formula(k):
    expected = looped_survival(SCORES.tolist(), k, 0.7)
    assert_close(log_survival(SCORES, k, 0.7).exp(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 3])
def test_a_ranking_has_the_loss_of_the_paper(k):
    """`L_e2e` of the survivals of one stage."""
    expected = looped_cross_entropy(looped_survival(SCORES.tolist(), k, 0.7), RELEVANT.tolist())
    assert float(lcron(SCORES, RELEVANT, k, 0.7)) == pytest.approx(expected)


def test_two_candidates_have_a_logistic_loss():
    difference = torch.tensor([1.2, -0.4], dtype=torch.float64)
    value = lcron(difference, torch.tensor([True, False]), 1, 2.0)
    assert_close(value, F.softplus(-(difference[0] - difference[1]) / 2.0))


def test_what_is_ranked_rightly_costs_nothing_and_wrongly_much():
    good = 20 * RELEVANT.double() + 0.1 * SCORES
    assert float(lcron(good, RELEVANT, 2)) < 0.05
    assert float(lcron(-good, RELEVANT, 2)) > 10


def test_gradients_agree_with_finite_differences():
    """Of two candidates, where the sums that carry no gradient are constant."""
    two, relevant = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True), torch.tensor([True, False])
    assert torch.autograd.gradcheck(lambda scores: lcron(scores, relevant, 1), two)


def test_no_gradient_flows_through_the_normalising_sums():
    """The gradient is the numerical one of the loss with these sums held as they are."""
    sums = soft_permutation(SCORES, 1.0).logsumexp(dim=0)

    def held(scores):
        p = (soft_permutation(scores, 1.0)[:2].logsumexp(dim=0) - sums).exp()
        return -torch.where(RELEVANT, p, 1 - p).log().mean()

    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(held, scores)
    (expected,) = torch.autograd.grad(held(scores), scores)
    (found,) = torch.autograd.grad(lcron(scores, RELEVANT, 2), scores)
    assert_close(found, expected)


def test_descent_puts_the_relevant_candidates_first():
    scores = (-SCORES).requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        lcron(scores, RELEVANT, 2).backward()
        optimizer.step()
    assert scores[RELEVANT].min() > scores[~RELEVANT].max()


@pytest.mark.parametrize("every", [False, True])
def test_a_batch_of_one_kind_has_nothing_to_rank(every):
    scores = SCORES.clone().requires_grad_()
    loss = lcron(scores, torch.full((5,), every), 5 if every else 0)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_scores_far_apart_keep_a_finite_loss_and_a_gradient():
    scores = torch.tensor([500.0, -500.0, 0.0], requires_grad=True)
    loss = lcron(scores, torch.tensor([False, True, False]), 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[1] < 0


@pytest.mark.parametrize("k", [0, 6])
def test_as_many_pass_as_there_are_at_most(k):
    with pytest.raises(ValueError, match=f"top_k: expected 1 to 5, found {k}"):
        lcron(SCORES, RELEVANT, k)
