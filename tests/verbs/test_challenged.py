"""Challenge profiles from the command line: in a recipe, and of a finished run with a field of scores."""

import json

import pytest
from PIL import Image

from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness

pytestmark = pytest.mark.slow


def test_a_recipe_with_challenges_and_the_same_later(desk):
    words = ("--method", "probe", "--calibrate_on", "challenge@2026-04", "--robustness", "challenge@2026-05")
    result = desk.type("train", desk.recipe, *words)
    assert result.status == 0, result.err
    calibration = json.loads((desk.output / "calibration.json").read_text())
    assert calibration["fitted_on"] == "val_calib@challenge-2026-04/fit"
    assert "  challenge@2026-04 sent: pixels as stored, without EXIF orientation; JPEG files coded twice" in result.out
    first = json.loads((desk.output / "robustness.json").read_text())
    assert [profile["profile"] for profile in first["profiles"]] == ["challenge@2026-05"]

    scores = desk.folder / "scores.csv"
    scores.write_text("hotkey,score\na,0.9\nb,0.1\n")
    result = desk.type("evaluate", desk.output, "--robustness", "challenge@2025", "--field", scores)
    assert result.status == 0, result.err
    assert "photo/s" in result.err  # how fast it goes
    assert "  challenge@2025 all levels: " in result.out
    assert "  sent: pixels as stored, without EXIF orientation" in result.out
    assert "as of 2026-05 StreetVision is halted" in result.out
    assert "latency on this CPU" in result.out
    assert "field: scores.csv (2 participants), mean score 0.500" in result.out
    for kind in (Robustness, Reward):
        kind.read(desk.output)
    later = json.loads((desk.output / "robustness.json").read_text())
    assert [profile["profile"] for profile in later["profiles"]] == ["challenge@2025", "challenge@2026-05"]
    assert later["profiles"][1] == first["profiles"][0]  # what was measured before is still there

    before = {path: path.read_bytes() for path in desk.output.rglob("*") if path.is_file()}
    line = desk.refusal("evaluate", desk.output, "--robustness", "challenge@2024")
    assert line.startswith(
        "--robustness: challenge profile 'challenge@2024' is unknown: choose one of challenge@2025, "
    )
    scores.write_text("0.5\nbest\n")
    line = desk.refusal("evaluate", desk.output, "--field", scores)
    assert line.endswith(
        "line 2: 'best' is not a score: expected one score from 0 to 1 per line, or a column called score"
    )
    assert before == {path: path.read_bytes() for path in desk.output.rglob("*") if path.is_file()}


def test_a_strip_that_validators_never_send_is_refused_before_anything_is_trained(desk):
    Image.new("RGB", (2500, 9), (90, 90, 90)).save(desk.folder / "photos" / "None" / "strip.png")
    for words in (["--augment", "challenge@2026-04"], ["--robustness", "challenge@2025", "challenge@2026-04"]):
        line = desk.train(*words)
        assert line.startswith(
            "challenge@2026-04: None/strip.png of 2500 x 9 pixels would be shrunk to 224 x 0 pixels, "
        )
        assert line.endswith("so they never send it: leave out the photo or the profile")


def test_a_recipe_with_a_wrong_challenge_is_refused(desk):
    assert desk.train("--robustness", "challenge@2025", "challenge@2025").startswith("robustness: ")
    assert "calibrate_views: expected at least 1, found 0" in desk.train("--calibrate_views", "0")
