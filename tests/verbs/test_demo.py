"""The last step of `make demo` on a finished run."""

from __future__ import annotations

import re

import pytest

from natix_hf.demo import streets
from natix_hf.scenes.photos import scene


def test_the_demo_shows_the_first_six_streets_of_its_series_once_each():
    shown = streets(6)
    assert len({photo.group for photo in shown}) == 6
    first = list(dict.fromkeys(scene(7, index).group for index in range(24)))[:6]
    assert [photo.group for photo in shown] == first
    assert {photo.label for photo in shown} == {0, 1}


@pytest.mark.slow
def test_the_demo_classifies_six_streets_with_a_finished_run(trained_desk):
    status, out, err = trained_desk.type("demo", trained_desk.output)
    assert status == 0, err
    lines = [line for line in out.splitlines() if line.startswith("  new street")]
    assert [line.split()[2] for line in lines] == list("123456")
    for line in lines:
        assert re.fullmatch(r".*\((day|dusk|night), \w+, (no )?roadwork\): (\w+ [01]\.\d{3}(, )?){2}", line), line
    assert f"is in {trained_desk.output}/" in out


def test_the_demo_without_a_finished_run_says_what_to_type(desk):
    assert "make demo" in desk.refusal("demo", desk.folder)
