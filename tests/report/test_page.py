"""The report page: whatever is handed in is shown as text, what is missing is left out, and nothing loads."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from natix_hf.report.page import render, report_html
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.report.summary import metrics_document

EVIL = "<script>alert(1)</script>\"'>&{{ 7*7 }}"


class Tags(HTMLParser):
    """Start tags with their attributes, the text outside scripts and styles, and whether tags close in order."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def picture(colour=(90, 120, 150), heat=True):
    def content(image, kind):
        file = io.BytesIO()
        image.save(file, kind)
        return file.getvalue()

    overlay = content(Image.new("RGBA", (4, 3), (255, 80, 0, 120)), "PNG") if heat else None
    return Picture(content(Image.new("RGB", (64, 48), colour), "JPEG"), 64, 48, overlay, (0.125, 0.0, 0.75, 1.0))


def rows(classes=2, n=160, seed=0, name="val_test"):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) * 1.5
    logits[np.arange(n), labels] += 2.5
    logits[:4, :2] = logits[:4, 1::-1] + 3 * (1 - 2 * np.eye(classes)[labels[:4]][:, :2])  # some sure mistakes
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, Rows(
        name,
        np.array([f"{name}-{i:03d}.jpg" for i in range(n)], dtype=object),
        labels,
        np.array([f"group{i // 2}" for i in range(n)], dtype=object),
        probabilities,
        probabilities,
        np.log(probabilities / (1 - probabilities)),
        logits.argmax(axis=1),
        {"weather": np.array(["rain", "sun"], dtype=object)[generator.integers(0, 2, n)]},
    )


def documents(names, logits, test):
    places = ("train", "val_select", "val_calib/fit", "val_calib/control", "val_test")
    ledger = [
        {"step": "train", "role": "training", "split": "train", "part": None, "rows": 9, "time": 1.7e9},
        {"step": "predictions", "role": "policy", "split": "val_calib", "part": "fit", "rows": 5, "time": 1.7e9 + 60},
        {"step": "predictions", "role": "policy", "split": "val_calib", "part": "fit", "rows": 5, "time": 1.7e9 + 120},
    ]
    return {
        "metrics": metrics_document(
            logits, logits, test.labels, test.groups, label_names=names, times_read_before=3, n_boot=50
        ),
        "calibration": {
            "version": 1,
            "calibrator": "temperature",
            "fitted_on": "val_calib/fit",
            "n": 40,
            "temperature": 1.5,
            "kept": True,
            **{"nll_before": 0.3, "nll_after": 0.2, "ece_before": 0.1, "ece_after": 0.05},
            **{key: [0.0] * len(names) for key in ("logit_bias", "prior_bias", "threshold_bias")},
        },
        "run": {
            "positive": 1,
            "ledger": ledger,
            "log_history": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5, "eval_loss": 0.6, "eval_mcc": 0.8}],
        },
        "splits": {
            "label_names": names,
            "class_counts": {place: dict.fromkeys(names, 5) for place in places},
            "groups": dict.fromkeys(places, 7),
            "fingerprints": dict.fromkeys(places, "ab" * 16),
        },
    }


def make(names=("None", "Roadwork"), change=lambda test: test, pictures=None, **more):
    logits, test = rows(len(names))
    test = change(test)
    given = {} if pictures is None else pictures
    return report_html("lora", documents(list(names), logits, test) | more, test, pictures=given)


def test_it_shows_the_figures_with_intervals_and_n_and_who_read_what():
    page = Tags(make())
    text = " ".join("".join(page.text).split())
    logits, test = rows()
    mcc = documents(["None", "Roadwork"], logits, test)["metrics"]["metrics"]["mcc"]
    assert f"{mcc['value']:.3f}" in text
    assert f"{mcc['low']:.3f} to {mcc['high']:.3f}" in text
    assert text.count("n = 160") == 7
    assert "160 photos in 80 groups of val_test" in text
    assert "predictions (2 times) 2023-11-14 22:14:20 to 2023-11-14 22:15:20" in text
    assert "final figures 3 times before" in text
    wrong = int((test.decided != test.labels).sum())
    assert f"The {min(24, wrong)} most confident of {wrong} wrong decisions on 160 photos" in text


def test_names_of_classes_photos_groups_and_slices_are_text_whatever_they_are():
    def change(test):
        ids = np.array([f"{EVIL}{i}" for i in range(len(test.ids))], dtype=object)
        weather = np.full(len(ids), EVIL, dtype=object)
        return test._replace(ids=ids, groups=ids, slices={EVIL: weather})

    plain, page = Tags(make()), Tags(make(("None", EVIL), change))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {name for _, attrs in page.tags for name in attrs} <= {name for _, attrs in plain.tags for name in attrs}
    assert f"{EVIL}0" in "".join(page.text)  # parsed back as text
    shot = next(attrs for tag, attrs in page.tags if attrs.get("class") == "shot")
    assert json.loads(shot["data-label"])[0] in ("None", EVIL)
    assert json.loads(shot["data-slice"]) == [f"{EVIL}={EVIL}"]


def test_nothing_is_loaded_from_anywhere():
    _, test = rows()
    page = make(pictures={("val_test", str(one)): picture() for one in test.ids})
    parsed = Tags(page)
    policy = next(attrs["content"] for attrs in parsed.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [
        attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "srcset", "action") if name in attrs
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\(|https?://", page)


def test_sections_without_their_document_are_absent():
    ids = {attrs.get("id") for attrs in Tags(make()).all("section")}
    assert ids == {"figures", "splits", "decisions", "probabilities", "mistakes", "labels", "training", "run"}


@pytest.mark.parametrize("classes", [2, 13])
def test_pages_of_two_and_of_many_classes_have_every_link_s_target(classes):
    parsed = Tags(make([f"kind {i}" for i in range(classes)]))
    targets = {attrs["id"] for _, attrs in parsed.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in parsed.all("a")} <= targets
    cells = [attrs for attrs in parsed.all("td") if "--share" in attrs.get("style", "")]
    assert len(cells) == classes**2


def test_charts_can_be_heard_and_read_as_tables():
    parsed = Tags(make())
    charts = [attrs for attrs in parsed.all("svg") if attrs.get("class") == "chart"]
    assert len(charts) >= 6
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in charts)
    assert len(parsed.all("summary")) >= 5


def test_without_pictures_no_row_is_named():
    logits, test = rows()
    given = documents(["None", "Roadwork"], logits, test)
    page = report_html("lora", given, test, pictures=None)
    assert "val_test-0" not in page
    assert "group1" not in page
    assert "<img" not in page
    assert not {"mistakes", "labels"} & {attrs.get("id") for attrs in Tags(page).all("section")}


def test_a_photo_is_shown_with_its_heat_map_where_the_model_looked():
    _, test = rows()
    worst = next(i for i in np.argsort(-test.after[np.arange(160), test.decided]) if test.decided[i] != test.labels[i])
    parsed = Tags(make(pictures={("val_test", str(test.ids[worst])): picture()}))
    heat = next(attrs for attrs in parsed.all("img") if attrs.get("class") == "heat")
    assert heat["style"] == "left:12.500%;top:0.000%;width:75.000%;height:100.000%"
    assert heat["src"].startswith("data:image/png;base64,")


def test_the_frame_alone_is_a_whole_page():
    Tags(render("base.html.jinja"))
