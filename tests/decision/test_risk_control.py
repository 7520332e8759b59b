"""The abstain band: what is promised, what is refused, and how often the promise is broken."""

import numpy as np
import pytest

from natix_hf.decision.group_bounds import Groups, safe_threshold
from natix_hf.decision.risk_control import (
    BandRates,
    answers,
    band_rates,
    capacity_line,
    control_risk,
    guarantee_line,
)
from natix_hf.documents.guarantee import Abstention, Guarantee
from natix_hf.errors import UserError


class World:
    """6,000 cameras of 1 to 8 photos; labels and difficulty are shared by the photos of a camera in part."""

    def __init__(self, seed: int = 0, skill: float = 1.6):
        self.generator = generator = np.random.default_rng(seed)
        self.sizes = generator.integers(1, 9, 6_000)
        camera = np.repeat(np.arange(6_000), self.sizes)
        self.start = np.cumsum(self.sizes) - self.sizes
        mostly = generator.random(6_000) < 0.5
        self.is_positive = np.where(generator.random(len(camera)) < 0.8, mostly[camera], ~mostly[camera])
        odds = skill * np.where(self.is_positive, 1, -1) + generator.normal(0, 0.9, 6_000)[camera]
        self.scores = 1 / (1 + np.exp(-2 * (odds + generator.normal(0, 0.4, len(camera)))))

    def draw(self, cameras: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        drawn = self.generator.integers(0, 6_000, cameras)
        rows = np.concatenate([np.arange(self.start[c], self.start[c] + self.sizes[c]) for c in drawn])
        return self.scores[rows], self.is_positive[rows], np.repeat(np.arange(cameras), self.sizes[drawn])

    def rates(self, document: Guarantee) -> BandRates:
        return band_rates(self.scores, self.is_positive, document.low, document.high)


WORLD = World()


@pytest.mark.parametrize("risk", ["fpr", "fnr"])
def test_one_class_is_bounded_on_its_own_rows(risk):
    scores, is_positive, groups = WORLD.draw(400)
    document = control_risk(scores, is_positive, groups, risk=risk, alpha=0.04, delta=0.1)
    side = is_positive == (risk == "fnr")
    sign = -1 if risk == "fnr" else 1
    found = sign * safe_threshold(sign * scores[side], Groups.of(groups[side], side.sum()), 0.04, 0.1)
    assert document.reachable
    assert (document.high if risk == "fpr" else document.low) == found
    assert (document.low if risk == "fpr" else document.high) == pytest.approx(0.5)
    assert getattr(document, risk) < 0.04  # on these rows; the bound leaves room
    other = World(1)  # rows of the other class have no part in it
    changed = np.where(side, scores, other.generator.random(len(scores)))
    again = control_risk(changed, is_positive, groups, risk=risk, alpha=0.04, delta=0.1)
    assert (again.low, again.high) == (document.low, document.high)


def test_a_guarantee_takes_answers_away_and_adds_none():
    generator = np.random.default_rng(0)
    is_positive = np.arange(2000) % 2 == 0
    scores = np.where(is_positive, 0.6 + 0.4 * generator.random(2000), 0.4 * generator.random(2000))
    document = control_risk(scores, is_positive, None, risk="error", alpha=0.05)
    said_positive, said_negative = answers(np.array([0.4999, 0.5, 0.5001]), document.low, document.high)
    assert said_positive.tolist() == [False, False, True]
    assert said_negative.tolist() == [True, True, False]
    assert document.coverage == 1.0


def test_rates_of_a_band_by_hand():
    scores = np.array([0.1, 0.5, 0.9, 0.95, 0.2, 0.6, 0.7, 0.99])
    is_positive = np.arange(8) >= 4
    rates = band_rates(scores, is_positive, low=0.2, high=0.9)
    abstention = Abstention(negative=0.25, positive=0.5)
    assert rates == BandRates(fpr=0.5, fnr=0.25, abstention=abstention, coverage=5 / 8)
    assert band_rates(scores, np.ones(8, dtype=bool), 0.2, 0.9).fpr is None


def test_precision_follows_from_both_classes_at_the_prevalence():
    scores, is_positive, groups = WORLD.draw(1500)
    found = {}
    for prevalence in (0.5, 0.2):
        document = control_risk(
            scores, is_positive, groups, risk="precision", alpha=0.1, delta=0.1, prevalence=prevalence
        )
        said, _ = answers(WORLD.scores, document.low, document.high)
        fpr, tpr = said[~WORLD.is_positive].mean(), said[WORLD.is_positive].mean()
        assert prevalence * tpr / (prevalence * tpr + (1 - prevalence) * fpr) >= 0.9
        found[prevalence] = document.high
    assert found[0.2] > found[0.5]  # rarer positives ask for more


@pytest.mark.parametrize(("risk", "prevalence"), [("fpr", None), ("fnr", None), ("error", None), ("precision", 0.3)])
def test_the_smallest_alpha_that_is_named_can_be_had_without_mistakes(risk, prevalence):
    is_positive, groups = np.arange(600) % 2 == 0, np.arange(600) // 4
    scores = np.where(is_positive, 0.99, 0.01)
    tight = control_risk(scores, is_positive, groups, risk=risk, alpha=1e-4, delta=0.05, prevalence=prevalence)
    assert not tight.reachable
    assert tight.low is tight.high is tight.fpr is None
    smallest = tight.smallest_alpha
    assert "risk_alpha 0.0001 is out of reach" in tight.reason
    assert f"set risk_alpha to {np.ceil(smallest * 1e4) / 1e4:g} or more" in tight.reason
    options = {"risk": risk, "delta": 0.05, "prevalence": prevalence}
    assert control_risk(scores, is_positive, groups, alpha=smallest, **options).reachable
    assert not control_risk(scores, is_positive, groups, alpha=0.99 * smallest, **options).reachable


def test_precision_out_of_the_model_s_reach_says_that_it_is_the_model():
    generator = np.random.default_rng(0)
    scores, is_positive = generator.random(4000), np.arange(4000) % 2 == 0
    document = control_risk(scores, is_positive, None, risk="precision", alpha=0.05, prevalence=0.5)
    assert document.smallest_alpha < 0.05
    assert not document.reachable
    assert "not with this model" in document.reason


def test_one_class_alone_bounds_its_own_rate_and_no_other():
    scores, is_positive = np.full(100, 0.1), np.zeros(100, dtype=bool)
    assert control_risk(scores, is_positive, None, risk="fpr", alpha=0.05).reachable
    document = control_risk(scores, is_positive, None, risk="fnr", alpha=0.05)
    assert not document.reachable
    assert "0 positive control photos in 0 groups can certify no risk_alpha" in document.reason


@pytest.mark.parametrize("risk", ["fpr", "error"])
def test_rows_that_chose_the_scores_too_share_delta_among_what_they_chose_from(risk):
    scores, is_positive, groups = WORLD.draw(600)
    plain = control_risk(scores, is_positive, groups, risk=risk, alpha=0.05, delta=0.1 / 8)
    shared = control_risk(scores, is_positive, groups, risk=risk, alpha=0.05, delta=0.1, chosen_among=8)
    assert (shared.low, shared.high, shared.smallest_alpha) == (plain.low, plain.high, plain.smallest_alpha)
    assert shared.delta == 0.1  # what may fail is told, not what each of them was tested with


def test_lines_name_classes_numbers_and_confidence():
    scores, is_positive, groups = WORLD.draw(400)
    document = control_risk(scores, is_positive, groups, risk="fpr", alpha=0.05)
    line = guarantee_line(document, ("None", "Roadwork"))
    assert line.startswith(
        "with 90% confidence at most 5.00% of photos of None are answered Roadwork; Roadwork from p"
    )
    negatives, cameras = (~is_positive).sum(), len(np.unique(groups[~is_positive]))
    assert f"{negatives} photos of None in {cameras} groups" in capacity_line(document, ("None", "Roadwork"))
    none = control_risk(scores, is_positive, groups, risk="fpr", alpha=0.001)
    assert guarantee_line(none).startswith("no guarantee: risk_alpha 0.001 is out of reach")
    precise = control_risk(scores, is_positive, groups, risk="precision", alpha=0.4, prevalence=0.5)
    expected = "with 90% confidence at least 60.00% of the answers Roadwork are right at prevalence 0.5"
    assert guarantee_line(precise, ("None", "Roadwork")).startswith(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": "recall"}, "expected one of fpr, fnr, error, precision; found"),
        ({"alpha": 0.0}, "risk_alpha: expected .*, found 0"),
        ({"delta": 1.0}, "risk_delta: expected .*, found 1"),
        ({"risk": "precision"}, "needs prevalence"),
        ({"risk": "precision", "prevalence": 1.2}, "prevalence: expected .*, found 1.2"),
        ({"scores": np.array([0.1, -3.0])}, "score -3 of row 1 is not a probability; were these logits"),
        ({"scores": np.array([0.1, np.nan])}, "score nan of row 1"),
        ({"groups": np.array(["a"])}, "expected one group per row, found 1 for 2 rows"),
        ({"scores": np.zeros(0), "is_positive": np.zeros(0)}, "at least one row"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    given = {"scores": np.array([0.1, 0.9]), "is_positive": np.array([0, 1]), "groups": None}
    given |= {"risk": "fpr", "alpha": 0.1} | change
    arrays = (given.pop("scores"), given.pop("is_positive"), given.pop("groups"))
    with pytest.raises(UserError, match=message) as caught:
        control_risk(*arrays, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "alpha", "cameras"),
    [
        ({"risk": "error"}, 0.08, 250),
        ({"risk": "precision", "prevalence": 0.3}, 0.2, 600),
    ],
)
def test_promises_hold_in_100_draws_of_whole_groups(options, alpha, cameras):
    world, delta = World(2), 0.1
    violated, answered = 0, []
    for _ in range(100):
        document = control_risk(*world.draw(cameras), alpha=alpha, delta=delta, **options)
        if not document.reachable:
            continue
        true = world.rates(document)
        if options["risk"] == "precision":
            said, _ = answers(world.scores, document.low, document.high)
            tpr = said[world.is_positive].mean()
            precision = 0.3 * tpr / (0.3 * tpr + 0.7 * true.fpr) if said.any() else 1.0
            violated += precision < 1 - alpha
        else:
            violated += (
                max(getattr(true, name) for name in ("fpr", "fnr") if options["risk"] in (name, "error")) > alpha
            )
        answered.append(true.coverage)
    assert violated / 100 <= delta + 3 * np.sqrt(delta * (1 - delta) / 100)
    assert len(answered) > 90
    assert np.mean(answered) > 0.3
