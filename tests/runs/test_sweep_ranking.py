"""Rankings of sweeps whose runs were written down by hand: by score, by mean over seeds, and the luck in the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from split_rows import unopened

from natix_hf.data.splits.cut import Plan, cut
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import Sweep
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import write_json
from natix_hf.report.intervals import difference_of_means, luck_of_the_best, paired_differences
from natix_hf.report.metrics import classification_metrics
from natix_hf.runs.many_runs.processes import Outcome
from natix_hf.runs.many_runs.sweep_plan import Member
from natix_hf.runs.many_runs.sweep_ranking import ranking, table, winner, with_flattery
from natix_hf.runs.saved_logits import write_predictions

LABELS = np.arange(60) % 2
GROUPS = [f"g{i // 3}" for i in range(60)]


def logits_of(right: float, seed: int = 0) -> np.ndarray:
    """Logits `(60, 2)` that are right so often."""
    chance = np.random.default_rng(seed)
    sign = np.where(chance.random(60) < right, 1, -1) * np.where(LABELS == 1, 1, -1)
    size = chance.uniform(0.5, 2, 60)
    return np.stack([-sign * size, sign * size], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def certificate() -> SplitCertificate:
    rows = unopened(60, id=[f"p{i}" for i in range(60)], group=GROUPS, label=LABELS.tolist())
    return cut(rows, Plan(near_duplicates=False)).description


def swept(
    output: Path, name: str, logits: np.ndarray, certificate: SplitCertificate, metric: str = "mcc", **more
) -> None:
    """A finished run of a sweep."""
    rows = Dataset.from_dict({"id": [f"p{i}" for i in range(60)], "group": GROUPS, "label": LABELS.tolist()})
    write_predictions(output / name / "predictions" / "val_select.parquet", [(None, rows, logits)])
    certificate.write(output / name)
    record = {"version": 2, "positive": 1, "metric": metric, "best_step": 4, "steps": 8, "status": "finished"}
    write_json(output / name / "run.json", record | more)
    RunSpeed(time={"train": 2.0}, speed=None).write(output / name)


def member(name: str, cell: str = "", seed: int | None = None, **values) -> Member:
    return Member(name, [], "", values, cell or name, seed)


def test_combinations_rank_by_their_mean_over_seeds_and_differ_seed_by_seed(tmp_path, certificate):
    quality = {"lora_r=8": (0.95, 0.6, 0.65), "lora_r=16": (0.85, 0.8, 0.9), "lora_r=32": (0.5, 0.5, 0.5)}
    runs, logits = [], {}
    for cell, rights in quality.items():
        for seed, right in enumerate(rights):
            name = f"{cell},seed={seed}"
            logits[cell, seed] = logits_of(right, len(runs))
            swept(tmp_path, name, logits[cell, seed], certificate)
            runs.append(member(name, cell, seed, lora_r=int(cell[7:])))
    outcomes = {run.name: Outcome("finished") for run in runs}
    outcomes["lora_r=32,seed=1"] = Outcome("failed", "exit status 2")
    document = ranking(tmp_path, runs, outcomes)
    assert Sweep.parse(document.text(), "") == document
    assert [(cell.name, cell.rank) for cell in document.cells] == [
        ("lora_r=16", 1),
        ("lora_r=8", 2),
        ("lora_r=32", None),
    ]
    scores = {
        cell: [classification_metrics(logits[cell, seed], LABELS)["mcc"] for seed in range(3)]
        for cell in ("lora_r=8", "lora_r=16")
    }
    best, second, unfinished = document.cells
    assert best.scores == pytest.approx(scores["lora_r=16"])
    assert (best.mean, best.spread) == pytest.approx((np.mean(best.scores), np.std(best.scores, ddof=1)))
    assert best.beside_best is None
    gaps = np.subtract(scores["lora_r=8"], scores["lora_r=16"])
    assert second.beside_best.difference == pytest.approx(gaps.mean())
    assert second.beside_best.spread == pytest.approx(gaps.std(ddof=1))
    assert second.beside_best.better == (gaps > 0).sum() == 1  # the luckiest single run is not of the best combination
    assert second.beside_best.low < gaps.mean() < second.beside_best.high
    assert unfinished.mean is None
    assert unfinished.scores[1] is None
    assert max(run.score.value for run in document.runs if run.score) == second.scores[0]
    assert winner(document).name == "lora_r=16,seed=0"
    text = table(with_flattery(tmp_path, document), "look")
    assert "| 1 | 16 |" in text
    assert "ranked by the mean over seeds 0 1 2" in text
    assert "The score of the best of 3 is too optimistic" in text
    assert "- lora_r=32,seed=1: failed: exit status 2" in text


def test_a_recipe_with_several_seeds_has_a_mean_and_a_spread_and_nothing_to_be_chosen_from(tmp_path, certificate):
    runs = [member(f"seed={seed}", "the recipe", seed) for seed in (3, 5)]
    for run, right in zip(runs, (0.7, 0.9)):
        swept(tmp_path, run.name, logits_of(right, run.seed), certificate)
    document = ranking(tmp_path, runs, {run.name: Outcome("finished") for run in runs})
    (cell,) = document.cells
    assert cell.mean == pytest.approx(np.mean([run.score.value for run in document.runs]))
    assert with_flattery(tmp_path, document) == document
    text = table(document, None)
    assert "| rank | MCC, mean | SD | seed 3 | seed 5 |" in text
    assert "too optimistic" not in text


def test_pruned_runs_are_shown_and_not_ranked(tmp_path, certificate):
    runs = [member(f"trial-{i}", lora_r=i) for i in range(3)]
    for i, right in enumerate((0.7, 0.9, 0.99)):
        more = {"pruned": True} if i == 2 else {}
        swept(tmp_path, f"trial-{i}", logits_of(right, i), certificate, **more)
    outcomes = {run.name: Outcome("finished") for run in runs}
    document = ranking(tmp_path, runs, outcomes)
    assert [(run.name, run.rank, run.status) for run in document.runs] == [
        ("trial-1", 1, "finished"), ("trial-0", 2, "finished"), ("trial-2", None, "pruned")
    ]  # fmt: skip
    assert "pruned at 8" in table(document, None)


def test_runs_that_were_scored_otherwise_are_refused(tmp_path, certificate):
    for i, metric in enumerate(("mcc", "accuracy")):
        swept(tmp_path, f"trial-{i}", logits_of(0.8, i), certificate, metric)
    runs = [member(f"trial-{i}", lora_r=i) for i in range(2)]
    with pytest.raises(UserError, match="scored by another metric than trial-0"):
        ranking(tmp_path, runs, {run.name: Outcome("finished") for run in runs})


def test_with_one_seed_a_difference_of_means_is_the_paired_difference():
    a, b = logits_of(0.8, 1), logits_of(0.7, 2)
    for metric in ("mcc", "log_loss"):
        expected = paired_differences(a, b, LABELS, GROUPS)[metric]
        assert difference_of_means([a], [b], LABELS, GROUPS, metric) == pytest.approx(expected)
        assert difference_of_means([a, b], [b, a], LABELS, GROUPS, metric)["difference"] == pytest.approx(0)


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("log_loss", -1)])
def test_the_luck_of_the_best_of_guesses_is_all_that_it_has(metric, sign):
    """Of classifiers that guess, the best is no better than the others on other photos: taken off its score, what it
    has by luck leaves what all of them have on average. Repeated, since a single draw is luck itself."""
    left, ahead = [], []
    for turn in range(40):
        chance = np.random.default_rng(turn)
        labels = np.arange(80) % 2
        guesses = [chance.normal(size=(80, 2)) for _ in range(12)]
        scores = [classification_metrics(one, labels)[metric] for one in guesses]
        best = max(sign * np.array(scores))
        found = luck_of_the_best([[one] for one in guesses], labels, None, metric, seed=turn)
        assert found["low"] <= found["elsewhere"] <= found["high"]
        assert found["by"] == pytest.approx(best - sign * found["elsewhere"])
        left.append(best - found["by"])
        ahead.append(best)
    many = (np.random.default_rng(1000 + i).normal(size=(80, 2)) for i in range(400))
    truth = sign * np.mean([classification_metrics(one, np.arange(80) % 2)[metric] for one in many])
    assert np.mean(left) == pytest.approx(truth, abs=0.03)
    assert np.mean(ahead) > truth + 0.06


def test_one_that_is_far_ahead_owes_little_to_luck():
    labels = np.arange(200) % 2
    good = np.eye(2)[labels] * 4
    chance = np.random.default_rng(0)
    others = [chance.normal(size=(200, 2)) for _ in range(5)]
    found = luck_of_the_best([[others[0]], [good], *[[one] for one in others[1:]]], labels, None, "mcc")
    assert found["chosen_again"] == 1
    assert found["by"] == pytest.approx(0)
    assert found["elsewhere"] == 1
