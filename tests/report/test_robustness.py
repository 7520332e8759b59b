"""Robustness: every way beside the clean photos, held to one comparison at a time; its lines and pictures."""

import numpy as np
import pytest
from PIL import Image

from natix_hf.documents.robustness import ProfileFigures, Robustness
from natix_hf.report import figures_robustness
from natix_hf.report.intervals import bootstrap_intervals, paired_differences
from natix_hf.report.metrics import METRICS
from natix_hf.report.robustness import Sent, latency_document, robustness_document, robustness_lines, sent_text
from natix_hf.report.sections import robustness_section
from natix_hf.streetvision.field import LATE_2025
from natix_hf.streetvision.reward import Photos, reward_document
from natix_hf.streetvision.reward_report import reward_figure

NAMES = ["None", "Roadwork"]
SENT = "pixels as stored; JPEG files coded twice"


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    labels = (rng.random(90) < 0.6).astype(int)
    groups = np.array([f"video{i // 3}" for i in range(90)], dtype=object)
    score = (2 * labels - 1) * 1.5 + rng.normal(0, 1, 90)
    clean = np.stack([-score, score], axis=1)

    def worse(spread):
        noise = rng.normal(0, spread, 90)
        return clean + np.stack([-noise, noise], axis=1)

    ways = [Sent(level, None, None, worse(1 + level)) for level in range(2)]
    ways += [Sent(0, name, severity, worse(severity)) for name in ("noise", "blur") for severity in (1, 2)]
    return clean, ways, labels, groups


@pytest.fixture(scope="module")
def document(rows):
    clean, ways, labels, groups = rows
    profiles = {"challenge@2025": ways, "challenge@2026-05": ways[:1]}
    latency = latency_document([0.2, 0.4, 9.5], cores=2, threads=1, limit=9.0)
    options = {"label_names": NAMES, "how_sent": dict.fromkeys(profiles, SENT), "latency": latency, "n_boot": 200}
    return robustness_document(clean, profiles, labels, groups, **options)


def test_the_document_holds_every_level_and_severity_and_is_of_its_class(document):
    assert Robustness.parse(document.text(), "") == document
    first, second = document.profiles
    places = [(case.level, case.distortion, case.severity) for case in first.cases]
    assert places == [
        (None, None, None),
        (0, None, None),
        (1, None, None),
        *[(0, name, severity) for name in ("noise", "blur") for severity in (0, 1, 2)],
    ]
    level, untouched = first.cases[1], first.cases[3]
    assert untouched.metrics == level.metrics  # severity 0 is level 0
    assert [case.level for case in second.cases] == [0]
    assert (document.n, document.groups) == (90, 30)


def test_every_figure_says_how_the_photos_were_sent(document):
    assert [profile.sent for profile in document.profiles] == [SENT, SENT]
    how = f"{SENT} (challenge@2025, challenge@2026-05)"
    assert f"  sent: {how}" in robustness_lines(document)
    assert how in robustness_section(document).text
    case = document.profiles[0].cases[:1]
    said = (("a", "one"), ("b", "two"), ("a", "one"), ("clean", None))
    mixed = [ProfileFigures(profile=profile, sent=sent, cases=case) for profile, sent in said]
    assert sent_text(mixed) == "one (a); two (b)"


def test_every_case_is_what_one_comparison_at_a_time_gives(document, rows):
    clean, ways, labels, groups = rows
    cases = document.profiles[0].cases
    options = {"n_boot": 200, "seed": 0}
    alone = bootstrap_intervals(ways[1].logits, labels, groups, **options)
    gaps = paired_differences(ways[1].logits, clean, labels, groups, **options)
    both = np.concatenate([ways[0].logits, ways[1].logits])
    twice = paired_differences(both, np.tile(clean, (2, 1)), np.tile(labels, 2), np.tile(groups, 2), **options)
    for name in METRICS:
        assert cases[2].metrics[name].plain() == pytest.approx(alone[name])
        assert cases[2].difference[name].plain() == pytest.approx(gaps[name])
        assert cases[0].difference[name].plain() == pytest.approx(twice[name])
    # Without groups the views of a photo stay together all the same: as many groups as photos.
    single = robustness_document(clean, {"challenge@2025": ways[:2]}, labels, None, label_names=NAMES, n_boot=50)
    by_photo = bootstrap_intervals(both, np.tile(labels, 2), np.tile(np.arange(90), 2), n_boot=50)
    assert single.groups == 90
    assert single.profiles[0].cases[0].metrics["mcc"].plain() == pytest.approx(by_photo["mcc"])


def test_rows_of_one_class_give_null_and_no_number(rows):
    clean, ways, labels, groups = rows
    kept = labels == 1
    part = [Sent(0, None, None, ways[0].logits[kept])]
    got = robustness_document(
        clean[kept], {"challenge@2025": part}, labels[kept], groups[kept], label_names=NAMES, n_boot=20
    )
    assert Robustness.parse(got.text(), "") == got
    assert got.clean["auroc"].value is None
    assert got.profiles[0].cases[0].difference["auroc"].difference is None
    assert "-" in robustness_lines(got, "auroc")[1]


def test_lines_name_profile_counts_and_the_limit(document):
    lines = robustness_lines(document)
    assert "90 photos, 30 groups" in lines[0]
    assert lines[1].startswith("  challenge@2025 all levels: ")
    assert lines[-1].endswith("3 photos one by one): p50 0.40 s, p99 9.32 s, 1 over the limit of 9 s")
    # 98 % of the way from 0.4 to 9.5.
    assert document.latency.p99 == pytest.approx(9.318)


def test_the_pictures_are_the_same_twice(document, tmp_path):
    labels = np.repeat([0, 1], 30)
    logits = np.where((labels[:, None] == np.arange(2)), 1.0, -1.0)
    logits[:4] *= -1
    photos = [Photos("clean", None, logits, labels, None), Photos("challenge@2025", "a", logits[:9], labels[:9], None)]
    reward = reward_document(photos, LATE_2025, label_names=NAMES, days=20, n_boot=20)
    for number in "12":
        figures_robustness.robustness(document, tmp_path / f"robustness{number}.png")
        reward_figure(reward, tmp_path / f"reward{number}.png")
    for name in ("robustness", "reward"):
        assert (tmp_path / f"{name}1.png").read_bytes() == (tmp_path / f"{name}2.png").read_bytes()
        assert Image.open(tmp_path / f"{name}1.png").width > 900
    reward_figure(reward.model_copy(update={"entries": reward.entries[1:]}), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()  # all photos of one class: there is no reward to draw
