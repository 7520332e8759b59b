"""The report in headless Chromium; `make test-browser` installs it, and without it these tests are skipped."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from natix_hf.report.page import report_html
from natix_hf.streetvision.reward_report import reward_sections

pytestmark = pytest.mark.browser

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
NAMES = ["None", "<b>Roadwork</b>"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-browser")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("needs Chromium: make test-browser")
    with playwright.sync_playwright() as started:
        # No sandbox: CI is root, and the only page is our own.
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(parts, tmp_path_factory):
    logits, test = parts.rows()
    pictures = {("val_test", str(name)): parts.picture((40 + i, 90, 120)) for i, name in enumerate(test.ids)}
    documents = replace(parts.documents(NAMES, logits, test), **parts.further_documents(NAMES, logits, test))
    extra = reward_sections(documents.reward)
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(report_html("lora", documents, test, pictures=pictures, extra=extra), encoding="utf-8")
    return file


@pytest.fixture
def open_page(chromium, page_file):
    """A function that opens the report; any error while it is open fails the test."""
    contexts, wrong = [], []

    def start(viewport, theme="light"):
        contexts.append(chromium.new_context(viewport=viewport, color_scheme=theme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: wrong.append(request.url) if not allowed(request.url) else None)
        page.goto(page_file.as_uri())
        return page

    def allowed(address):
        return address == page_file.as_uri() or address.startswith("data:")

    yield start
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_it_opens_without_errors_and_scrolls_down_only(open_page, viewport, theme):
    page = open_page(viewport, theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.evaluate("window.scrollTo(500, 0)")
    assert page.evaluate("window.scrollX") == 0
    assert page.locator("main section").count() == 12
    assert page.locator("h1").inner_text() == "lora"
    brightness = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (np.mean(brightness) > 128) == (theme == "light")


def test_many_classes_with_long_names_fit_on_a_phone(parts, chromium, tmp_path):
    names = [f"kind {i} of a thing that stands, lies or is dug up beside, on or under the lane" for i in range(13)]
    logits, test = parts.rows(13)
    file = tmp_path / "report.html"
    file.write_text(report_html("lora", parts.documents(names, logits, test), test, pictures={}), encoding="utf-8")
    page = chromium.new_page(viewport=PHONE)
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.close()


def test_the_theme_is_switched_and_kept(open_page):
    page = open_page(DESK, "light")
    dark = "getComputedStyle(document.documentElement).colorScheme"
    page.get_by_role("button", name="Switch to the dark theme").click()
    assert page.evaluate(dark) == "dark"
    page.reload()
    assert page.evaluate(dark) == "dark"
    page.get_by_role("button", name="Switch to the light theme").click()
    assert page.evaluate(dark) == "light"


def test_text_and_marks_stand_out_from_their_ground_in_both_themes(open_page):
    contrast = """() => {
      const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => (text.startsWith("color(") ? +v : v / 255))
          .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (e) => {
        const colour = getComputedStyle(e).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && e.parentElement ? ground(e.parentElement) : colour;
      };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const texts = [...document.querySelectorAll("main p, main td, main th, .figure-value, .figure-note, .tag, a")];
      return texts.filter((e) => e.innerText && e.checkVisibility())
        .map((e) => [ratio(light(getComputedStyle(e).color), light(ground(e))), e.className + ": " + e.innerText])
        .filter((found) => found[0] < 4.5);  // WCAG 2, AA
    }"""
    for theme in ("light", "dark"):
        assert open_page(DESK, theme).evaluate(contrast) == []


@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_a_photo_is_enlarged_by_mouse_and_keyboard(open_page, viewport):
    page = open_page(viewport)
    dialog = page.locator("dialog")
    assert not dialog.is_visible()
    first = page.locator("#mistake-list .shot").first
    first.get_by_role("button").click()
    assert dialog.is_visible()
    shown = dialog.locator("img.photo")
    assert shown.get_attribute("src") == first.locator("img.photo").get_attribute("src")
    assert dialog.locator(".odds").count() == 1
    number = page.locator("#mistake-list .shot").count()
    assert dialog.locator(".where").inner_text() == f"1 of {number}"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator(".where").inner_text() == f"{number} of {number}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = page.locator("#mistake-list .shot").nth(1).locator("img.photo")
    assert shown.get_attribute("src") == second.get_attribute("src")
    playwright = pytest.importorskip("playwright.sync_api")
    heat = dialog.locator("img.heat")
    assert float(heat.evaluate("e => getComputedStyle(e).opacity")) > 0.5
    page.keyboard.press("a")
    playwright.expect(heat).to_have_css("opacity", "0")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_the_heat_map_lies_on_the_part_that_the_model_saw(open_page):
    page = open_page(DESK)
    page.locator("#mistake-list .shot button.open").first.click()
    photo, heat = (page.locator(f"dialog img.{name}").bounding_box() for name in ("photo", "heat"))
    assert heat["x"] - photo["x"] == pytest.approx(0.125 * photo["width"], abs=1)
    assert heat["width"] == pytest.approx(0.75 * photo["width"], abs=1)
    assert heat["height"] == pytest.approx(photo["height"], abs=1)


def test_filters_hide_what_does_not_fit(open_page):
    page = open_page(DESK)
    section = page.locator("#mistakes")
    shots = section.locator(".shot:visible")
    everything = shots.count()
    section.get_by_label("Kind of mistake").select_option("false positive")
    assert 0 < shots.count() < everything
    assert set(shots.locator(".tag").all_inner_texts()) == {"false positive"}
    assert section.locator(".count").inner_text() == f"{shots.count()} of {everything} shown"
    section.get_by_label("Label").select_option(NAMES[1])
    assert shots.count() == 0  # a false positive is no roadwork
    section.get_by_label("Kind of mistake").select_option("all")
    section.get_by_label("Slice").select_option("weather=rain")
    assert 0 < shots.count() < everything
    assert all("weather: rain" in text for text in shots.locator(".id").all_inner_texts())
    shots.first.get_by_role("button").click()  # paging covers only the photos shown
    assert page.locator("dialog .where").inner_text() == f"1 of {shots.count()}"


def test_slices_are_filtered_and_sorted(open_page):
    page = open_page(DESK)
    section = page.locator("#slices")
    rows = section.locator("tbody tr:visible")
    assert rows.count() == 2
    photos = section.get_by_role("button", name="photos")
    photos.click()
    counts = [int(text) for text in rows.locator("td:nth-child(3)").all_inner_texts()]
    assert counts == sorted(counts)
    photos.click()
    assert [int(text) for text in rows.locator("td:nth-child(3)").all_inner_texts()] == counts[::-1]
    section.get_by_label("Search").fill("RAIN")
    assert rows.locator("th").all_inner_texts() == ["rain"]


def test_a_chart_says_the_values_under_the_pointer(open_page):
    page = open_page(DESK)
    figure = page.locator("figure", has_text="Errors by share of photos decided").first
    chart = figure.locator("svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.96, box["y"] + box["height"] / 2)
    share, wrong = figure.locator(".readout").inner_text().split(" · ")
    assert share.startswith("share of photos decided 0.9") or share.endswith("1.000")
    assert wrong.startswith("wrong 0.")
