"""A search: what is searched, that it repeats, goes on and is shared, and that nothing else is taken for it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from transformers import TrainerControl, TrainerState

from natix_hf.errors import UserError
from natix_hf.runs.many_runs.pruning import Pruning
from natix_hf.runs.many_runs.search import read_space
from natix_hf.runs.many_runs.study import Axis, ask, begin_study, open_study, tell, under_way

SPACE = {
    "rate": Axis(1e-5, 1e-1, log=True),
    "rank": Axis(4, 64, log=True, whole=True),
    "augment": Axis(choices=["a", "b"]),
}


def values(words: list[str]) -> dict:
    """A recipe of three keys."""
    known = {"lora_r": 8, "learning_rate": 1e-4, "augment": "basic", "ema": True}
    for key, text in zip(words[::2], words[1::2]):
        name = key[2:]
        try:
            known[name] = type(known[name])(text)
        except KeyError:
            raise UserError(f"unknown key '{name}'") from None
        except ValueError:
            raise UserError(f"{name}: expected a number, found {text}") from None
    return known


def test_a_range_is_of_integers_if_the_key_is_an_integer():
    space = read_space(["lora_r=4..64:log", "learning_rate=1..3", "augment=basic,auto"], values)
    assert space == {
        "lora_r": Axis(4, 64, log=True, whole=True),
        "learning_rate": Axis(1.0, 3.0),
        "augment": Axis(choices=["basic", "auto"]),
    }
    assert read_space(["learning_rate=1e-5..1.5e-3:log"], values)["learning_rate"] == Axis(1e-5, 1.5e-3, log=True)
    assert read_space(["learning_rate=.5..2."], values)["learning_rate"] == Axis(0.5, 2.0)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora_r", "expected key=low..high, "),
        ("lora_r=", "expected key=low..high, "),
        ("lora_r=4..", "expected key=low..high, "),
        ("lora_r=8", "expected key=low..high, "),
        ("lora_r=8,", "expected key=low..high, "),
        ("lora_r=8,8", "a value is given twice"),
        ("lora_r=64..4", "64 is not less than 4"),
        ("learning_rate=0..1:log", "must start above 0"),
        ("lora_r=4.5..64", "lora_r: expected a number, found 4.5"),
        ("lora_r=4..many", "lora_r: expected a number, found many"),
        ("augment=a..b", "augment is not a number: list its values"),
        ("lora_rr=4..8", "unknown key 'lora_rr'"),
        ("seed=0..8", "seed cannot be varied: the luckiest seed would win"),
        ("dataset_name=a,b", "scored on different photos"),
    ],
)
def test_an_invalid_space_is_refused_in_one_line(word, said):
    with pytest.raises(UserError) as caught:
        read_space([word], values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicate_keys_and_an_empty_space_are_refused():
    with pytest.raises(UserError, match="lora_r is given twice"):
        read_space(["lora_r=4..8", "lora_r=4,8"], values)
    with pytest.raises(UserError, match="no key given"):
        read_space([], values)


def worth(found: dict) -> float:
    """Best at a rate of 1e-3 and rank 16."""
    off = abs(math.log10(found["rate"]) + 3) + abs(math.log2(found["rank"]) - 4) / 2
    return -off + 0.1 * (found["augment"] == "b")


def searched(folder: Path, trials: int, seed: int = 0) -> list[dict]:
    """The values that a search of so many trials tries, each told its worth before the next is asked for."""
    folder.mkdir(exist_ok=True)
    begin_study(folder, {"seed": seed}, larger_is_better=True)
    while len(open_study(folder).trials) < trials:
        trial = ask(folder, SPACE, seed=seed)
        tell(folder, trial.number, worth(trial.params))
    return [trial.params for trial in open_study(folder).trials]


def test_a_search_is_reproducible_also_after_an_interruption(tmp_path):
    whole = searched(tmp_path / "a", 16)
    assert searched(tmp_path / "b", 5) == whole[:5]
    assert searched(tmp_path / "b", 16) == whole
    assert searched(tmp_path / "c", 3, seed=1) != whole[:3]
    assert len({str(one) for one in whole}) == 16
    assert all(isinstance(one["rank"], int) and 4 <= one["rank"] <= 64 for one in whole)


def test_a_search_finds_more_than_its_first_draws(tmp_path):
    found = [worth(one) for one in searched(tmp_path, 40)]
    assert max(found[20:]) > max(found[:10])
    assert sum(found[30:]) / 10 > sum(found[:10]) / 10


def test_machines_that_ask_at_the_same_time_get_different_points(tmp_path):
    begin_study(tmp_path, {}, larger_is_better=True)
    trials = [ask(tmp_path, SPACE, seed=0) for _ in range(4)]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert len({str(trial.params) for trial in trials}) == 4
    assert all(map(under_way, open_study(tmp_path).trials))
    tell(tmp_path, 1, None)
    tell(tmp_path, 1, 0.5)  # by another process, too late
    assert open_study(tmp_path).trials[1].state == TrialState.FAIL


def test_a_study_of_other_options_is_refused_with_both_values(tmp_path):
    begin_study(tmp_path, {"seed": 0, "weight_decay": 0.1}, larger_is_better=True)
    begin_study(tmp_path, {"seed": 0, "weight_decay": 0.1}, larger_is_better=True)
    with pytest.raises(UserError, match=r"a study with other options: weight_decay \(0.5 here, 0.1 there\)"):
        begin_study(tmp_path, {"seed": 0, "weight_decay": 0.5}, larger_is_better=True)
    with pytest.raises(UserError, match=r"warmup_steps \(None here, 5 there\)|warmup_steps \(5 here, None there\)"):
        begin_study(tmp_path, {"seed": 0, "weight_decay": 0.1, "warmup_steps": 5}, larger_is_better=True)


def trained(folder: Path, number: int, scores: list[float]) -> int:
    """Train a trial with these scores at its evaluations; returns how many it came to."""
    pruning, control = Pruning(number), TrainerControl()
    state = TrainerState(max_steps=100 * len(scores))
    args = SimpleNamespace(output_dir=str(folder / "trial"), metric_for_best_model="mcc")
    pruning.on_train_begin(args, state, control)
    for done, score in enumerate(scores, start=1):
        state.global_step = 100 * done
        state.log_history.append({"eval_mcc": score})
        pruning.on_evaluate(args, state, control, {"eval_mcc": score})
        if control.should_training_stop:
            break
    assert pruning.pruned == control.should_training_stop
    tell(folder, number, score, pruned=pruning.pruned)
    return done


def test_a_trial_below_the_median_is_ended_early_and_never_at_its_end(tmp_path):
    begin_study(tmp_path, {}, larger_is_better=True)
    curves = [[0.1 * i, 0.1 * i + 0.1, 0.1 * i + 0.2] for i in range(1, 6)]  # medians 0.3 and 0.4
    for curve in curves:
        assert trained(tmp_path, ask(tmp_path, SPACE, seed=0).number, curve) == 3  # five to compare with come first
    assert trained(tmp_path, ask(tmp_path, SPACE, seed=0).number, [0.2, 0.9, 0.9]) == 1
    assert trained(tmp_path, ask(tmp_path, SPACE, seed=0).number, [0.35, 0.36, 0.9]) == 2
    assert trained(tmp_path, ask(tmp_path, SPACE, seed=0).number, [0.35, 0.45, 0.0]) == 3
    assert trained(tmp_path, ask(tmp_path, SPACE, seed=0).number, [float("nan"), 0.45, 0.5]) == 3
    trials = open_study(tmp_path).trials
    states = [trial.state for trial in trials[5:]]
    assert states == [TrialState.PRUNED, TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert trials[6].intermediate_values == {1: 0.35, 2: 0.36}
