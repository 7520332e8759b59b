"""How often the promises of a cascade are broken when whole groups are drawn again, and what it costs.

    python tests/bench/early_exits.py --repeats 500

Two stages judge a population of cameras; 300 cameras calibrate both once, and others are drawn from it again and
again to choose the band of early exits. Its loss is looked up in the whole population. `groups` is the promise of this
package, `candidates` the same with a band out of fourteen, `rows` takes photos for independent, and `naive` is the
widest band whose loss on the drawn photos is at most alpha. The second table fits abstention on the same cameras:
`shared` as the package does, `unshared` with all of delta for each promise and for the chosen band's scores alone.
Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from natix_hf.decision.cascade import TwoStages, left_for_risk
from natix_hf.decision.early_exit import candidate_bands, certified_exit, exit_confidence, harmful_exits, mean_cost
from natix_hf.decision.fit_calibrator import fit_one
from natix_hf.decision.risk_control import band_rates, control_risk
from natix_hf.logits import softmax

DELTA, RISK_DELTA = 0.05, 0.1
COST = (1.0, 9.0)


class Rows(NamedTuple):
    """Logits of both stages `(n, 2)`, labels and cameras `(n,)`."""

    early: np.ndarray
    full: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


class Population:
    """`alone`: a photo each; `mixed`: the first stage errs on photos of a camera together in part; `alike`: on all."""

    def __init__(self, kind: str, cameras: int = 8000):
        generator = np.random.default_rng(0)
        self.sizes = np.ones(cameras, dtype=int) if kind == "alone" else generator.integers(1, 9, cameras)
        self.start = np.cumsum(self.sizes) - self.sizes
        camera = np.repeat(np.arange(cameras), self.sizes)
        shared = {"alone": 0.5, "mixed": 0.5, "alike": 0.95}[kind]
        mostly = generator.random(cameras) < 0.5
        labels = np.where(generator.random(len(camera)) < 0.85, mostly[camera], ~mostly[camera])
        noise = np.sqrt(shared) * generator.normal(size=cameras)[camera]
        noise += np.sqrt(1 - shared) * generator.normal(size=len(camera))
        first = np.where(labels, 1.2, -1.2) + 0.9 * noise
        second = first + np.where(labels, 1.5, -1.5) + generator.normal(0, 0.9, len(camera))
        self.all = Rows(_logits(2.5 * first), _logits(4 * second), labels.astype(np.int64), camera)

    def draw(self, cameras: int, generator: np.random.Generator) -> Rows:
        """The photos of whole cameras drawn with replacement."""
        drawn = generator.integers(0, len(self.sizes), cameras)
        rows = np.concatenate([np.arange(self.start[c], self.start[c] + self.sizes[c]) for c in drawn])
        groups = np.repeat(np.arange(cameras), self.sizes[drawn])
        return Rows(self.all.early[rows], self.all.full[rows], self.all.labels[rows], groups)


def _logits(log_odds: np.ndarray) -> np.ndarray:
    return np.stack([-log_odds / 2, log_odds / 2], axis=1)


def naive_band(early: np.ndarray, full: np.ndarray, labels: np.ndarray, alpha: float) -> float:
    """The lowest `high` whose loss on these rows is at most alpha."""
    at_risk = np.sort(exit_confidence(early)[harmful_exits(early, full, labels)])[::-1]
    let_pass = int(alpha * len(labels))
    return 0.5 if len(at_risk) <= let_pass else float(np.nextafter(at_risk[let_pass], 2.0))


def exits(population: Population, cameras: int, alpha: float, repeats: int) -> list[str]:
    """A row of the table for each way to choose the band."""
    generator = np.random.default_rng(1)
    fit = population.draw(300, generator)
    stages = [fit_one("temperature", logits, fit.labels, fit.groups) for logits in fit[:2]]

    def judged(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        return tuple(softmax(stage.calibrated(logits)) for stage, logits in zip(stages, rows[:2]))

    everybody = judged(population.all)
    harmful, confidence = harmful_exits(*everybody, population.all.labels), exit_confidence(everybody[0])
    bands = candidate_bands(judged(fit)[0])
    terms = {"alpha": alpha, "delta": DELTA}
    ways: dict[str, Callable[..., float | None]] = {
        "groups": lambda early, full, rows: certified_exit(early, full, *rows[2:], **terms).high,
        "candidates": lambda early, full, rows: certified_exit(early, full, *rows[2:], candidates=bands, **terms).high,
        "rows": lambda early, full, rows: certified_exit(early, full, rows.labels, None, **terms).high,
        "naive": lambda early, full, rows: naive_band(early, full, rows.labels, alpha),
    }
    found: dict[str, list[float | None]] = {way: [] for way in ways}
    for _ in range(repeats):
        rows = population.draw(cameras, generator)
        for way, choose in ways.items():
            found[way].append(choose(*judged(rows), rows))
    lines = []
    for way, highs in found.items():
        leaves = [confidence >= (np.inf if high is None else high) for high in highs]
        losses = np.array([(harmful & leaving).mean() for leaving in leaves])
        cost = np.mean([mean_cost(leaving, COST) for leaving in leaves])
        reach = np.mean([high is not None for high in highs])
        lines.append(
            f"{way} | {(losses > alpha).mean():.1%} | {losses.mean():.2%} | {reach:.0%} | "
            f"{np.mean([leaving.mean() for leaving in leaves]):.1%} | {cost:.2f}"
        )
    return lines


def both(population: Population, cameras: int, alpha: float, fpr: float, repeats: int) -> list[str]:
    """Rows of the table of two promises: delta shared among them, and not."""
    generator = np.random.default_rng(2)
    fit, everybody = population.draw(300, generator), population.all
    first, second = (fit_one("temperature", logits, fit.labels, fit.groups) for logits in fit[:2])
    of_all = softmax(first.calibrated(everybody.early)), softmax(second.calibrated(everybody.full))
    harmful, bands = harmful_exits(*of_all, everybody.labels), candidate_bands(softmax(first.calibrated(fit.early)))
    whole: dict[float | None, tuple[np.ndarray, np.ndarray]] = {}
    found: dict[str, list[tuple[bool, float, float]]] = {"shared": [], "unshared": []}
    for _ in range(repeats):
        rows = population.draw(cameras, generator)
        judged = softmax(first.calibrated(rows.early)), softmax(second.calibrated(rows.full))
        for way, taken in (("shared", bands), ("unshared", None)):
            delta = DELTA if way == "shared" else RISK_DELTA
            chosen = certified_exit(*judged, *rows[2:], alpha=alpha, delta=delta, candidates=taken)
            stages = TwoStages(first, second, chosen.low, chosen.high)
            terms = left_for_risk(chosen, RISK_DELTA)._asdict() if way == "shared" else {"delta": RISK_DELTA}
            scores = softmax(stages.composite(*rows[:2]).logits)[:, 1]
            promise = control_risk(scores, rows.labels == 1, rows.groups, risk="fpr", alpha=fpr, **terms)
            if not promise.reachable:
                continue
            if chosen.high not in whole or way == "unshared":
                logits, stage = stages.composite(*everybody[:2])
                whole[chosen.high] = softmax(logits)[:, 1], stage
            of_everybody, stage = whole[chosen.high]
            rates = band_rates(of_everybody, everybody.labels == 1, promise.low, promise.high)
            broken = (harmful & (stage == 1)).mean() > alpha or rates.fpr > fpr
            found[way].append((broken, rates.coverage, mean_cost(stage == 1, COST)))
    return [
        f"{way} | {sum(broken for broken, *_ in rows) / repeats:.1%} | {len(rows) / repeats:.0%} | "
        + (" | ".join(f"{np.mean([row[i] for row in rows]):.2f}" for i in (1, 2)) if rows else "- | -")
        for way, rows in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    given = parser.parse_args()
    populations = {kind: Population(kind) for kind in ("alone", "mixed", "alike")}
    head = "band by | broken | loss on average | in reach | leave early | views a photo"
    print(f"| population | cameras drawn | alpha | promised | {head} |")
    print("|---" * 10 + "|")
    for kind, population in populations.items():
        for cameras, alpha in ((300, 0.03), (1000, 0.01)):
            for line in exits(population, cameras, alpha, given.repeats):
                print(f"| {kind} | {cameras} | {alpha:g} | {DELTA:.0%} | {line} |", flush=True)
    print("\n| population | cameras drawn | alpha | fpr | promised together | delta | broken | in reach | ", end="")
    print("answered | views a photo |\n" + "|---" * 10 + "|")
    for kind, population in populations.items():
        for line in both(population, 600, 0.03, 0.06, given.repeats):
            print(f"| {kind} | 600 | 0.03 | 0.06 | {RISK_DELTA:.0%} | {line} |", flush=True)
    print(f"\n{given.repeats} draws a line; the first stage costs {COST[0]:g} view, the second {COST[1]:g} more.")


if __name__ == "__main__":
    main()
