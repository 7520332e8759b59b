"""The keys of early exits: what they read, and what a mistake gets to hear."""

import pytest
from transformers import HfArgumentParser

from natix_hf.decision.exit_options import ExitOptions, check_exit, exit_of
from natix_hf.errors import UserError


@pytest.mark.parametrize(
    ("words", "asked"),
    [([], None), (["--views_exit", "risk"], "risk"), (["--views_exit", ".12", "0.88"], (0.12, 0.88))],
)
def test_words_of_a_command_line_are_read(words, asked):
    (options,) = HfArgumentParser([ExitOptions]).parse_args_into_dataclasses(words)
    assert exit_of(options) == asked


def test_python_may_give_numbers():
    assert exit_of(ExitOptions(views_exit=[0.12, 0.88])) == (0.12, 0.88)
    assert exit_of(ExitOptions(views_exit="risk")) == "risk"


@pytest.mark.parametrize(
    "band", [["0.88", "0.12"], ["0.5", "0.5"], ["0", "0.9"], ["0.1", "1"], ["nan", "0.9"], ["0.9"], ["fast"], "0.5"]
)
def test_what_is_no_band_is_refused_in_one_line(band):
    with pytest.raises(UserError, match=r"^views_exit: .* 0 < low < high < 1, found .*: use for example") as caught:
        ExitOptions(views_exit=band)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["views_exit_alpha", "views_exit_delta"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
def test_shares_lie_between_0_and_1(name, value):
    with pytest.raises(UserError, match=f"^{name}: expected a number above 0 and below 1"):
        ExitOptions(**{name: value})


def test_early_exits_need_a_second_stage_and_a_part_of_risk_delta():
    check_exit(ExitOptions(), two_stages=False, risk="fpr", risk_delta=0.01)
    asked = ExitOptions(views_exit=["risk"])
    with pytest.raises(UserError, match="add --views tiles, or remove the key with --views_exit null"):
        check_exit(asked, two_stages=False)
    check_exit(asked, two_stages=True, risk_delta=0.01)
    check_exit(asked, two_stages=True, risk="fpr", risk_delta=0.1)
    with pytest.raises(UserError, match=r"less than risk_delta .* use for example --views_exit_delta 0\.025"):
        check_exit(asked, two_stages=True, risk="fpr", risk_delta=0.05)
    check_exit(ExitOptions(views_exit=["0.1", "0.9"]), two_stages=True, risk="fpr", risk_delta=0.01)
