"""The report page shows all input as text, omits what is missing, and loads nothing from outside."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from finished_run import calibration_document
from two_stages import cascade_documents

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.report.page import render, report_html

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


def test_it_shows_the_figures_with_intervals_and_n_and_who_read_what(parts):
    page = Tags(parts.make())
    text = " ".join("".join(page.text).split())
    logits, test = parts.rows()
    mcc = parts.documents(["None", "Roadwork"], logits, test).metrics.metrics["mcc"]
    assert f"{mcc.value:.3f}" in text
    assert f"{mcc.low:.3f} to {mcc.high:.3f}" in text
    assert text.count("n = 160") == 7
    assert "160 photos in 80 groups of val_test" in text
    assert "predictions (2 times) 2023-11-14 22:14:20 to 2023-11-14 22:15:20" in text
    assert "final figures of other models 3 times before" in text
    wrong = int((test.decided != test.labels).sum())
    assert f"The {min(24, wrong)} most confident of the {wrong} wrong decisions on 160 photos" in text


def test_names_of_classes_photos_groups_and_slices_are_text_whatever_they_are(parts):
    def change(test):
        ids = np.array([f"{EVIL}{i}" for i in range(len(test.ids))], dtype=object)
        weather = np.full(len(ids), EVIL, dtype=object)
        return test._replace(ids=ids, groups=ids, slices={EVIL: weather})

    plain, page = Tags(parts.make()), Tags(parts.make(("None", EVIL), change))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {name for _, attrs in page.tags for name in attrs} <= {name for _, attrs in plain.tags for name in attrs}
    assert f"{EVIL}0" in "".join(page.text)  # parsed back as text
    shot = next(attrs for tag, attrs in page.tags if attrs.get("class") == "shot")
    assert json.loads(shot["data-label"])[0] in ("None", EVIL)
    assert json.loads(shot["data-slice"]) == [f"{EVIL}={EVIL}"]


def test_nothing_is_loaded_from_anywhere(parts):
    _, test = parts.rows()
    page = parts.make(pictures={("val_test", str(one)): parts.picture() for one in test.ids})
    parsed = Tags(page)
    policy = next(attrs["content"] for attrs in parsed.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [
        attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "srcset", "action") if name in attrs
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\(|https?://", page)


def test_sections_without_their_document_are_absent(parts):
    ids = {attrs.get("id") for attrs in Tags(parts.make()).all("section")}
    assert ids == {"figures", "splits", "decisions", "probabilities", "mistakes", "labels", "training", "run"}


def test_a_cascade_shows_its_promise_and_what_it_costs(parts):
    cascade, selective = cascade_documents()
    calibration = CalibrationFile.check(calibration_document(cascade=cascade.plain()))
    page = Tags(parts.make(calibration=calibration, selective=selective))
    assert "cascade" in {attrs.get("id") for attrs in page.all("section")}
    assert {attrs["href"][1:] for attrs in page.all("a")} <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    text = " ".join("".join(page.text).split())
    assert "Early exits: with 95% confidence at most 5.00% of all photos leave with a wrong answer" in text
    found = selective.cascade
    assert f"{found.mean_cost.low:.3f} to {found.mean_cost.high:.3f}" in text
    assert f"the cascade {found.error.value:.4f} at {found.mean_cost.value:.2f} views per photo" in " ".join(
        attrs.get("aria-label", "") for attrs in page.all("svg")
    )


@pytest.mark.parametrize("classes", [2, 13])
def test_pages_of_two_and_of_many_classes_have_every_link_s_target(parts, classes):
    parsed = Tags(parts.make([f"kind {i}" for i in range(classes)]))
    targets = {attrs["id"] for _, attrs in parsed.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in parsed.all("a")} <= targets
    cells = [attrs for attrs in parsed.all("td") if "--share" in attrs.get("style", "")]
    assert len(cells) == classes**2


def test_charts_can_be_heard_and_read_as_tables(parts):
    parsed = Tags(parts.make())
    charts = [attrs for attrs in parsed.all("svg") if attrs.get("class") == "chart"]
    assert len(charts) >= 6
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in charts)
    assert len(parsed.all("summary")) >= 5


def test_without_pictures_no_row_is_named(parts):
    logits, test = parts.rows()
    given = parts.documents(["None", "Roadwork"], logits, test)
    page = report_html("lora", given, test, pictures=None)
    assert "val_test-0" not in page
    assert "group1" not in page
    assert "<img" not in page
    assert not {"mistakes", "labels"} & {attrs.get("id") for attrs in Tags(page).all("section")}


def test_a_photo_is_shown_with_its_heat_map_where_the_model_looked(parts):
    _, test = parts.rows()
    worst = next(i for i in np.argsort(-test.after[np.arange(160), test.decided]) if test.decided[i] != test.labels[i])
    parsed = Tags(parts.make(pictures={("val_test", str(test.ids[worst])): parts.picture()}))
    heat = next(attrs for attrs in parsed.all("img") if attrs.get("class") == "heat")
    assert heat["style"] == "left:12.500%;top:0.000%;width:75.000%;height:100.000%"
    assert heat["src"].startswith("data:image/png;base64,")


def test_the_frame_alone_is_a_whole_page():
    Tags(render("base.html.jinja"))
