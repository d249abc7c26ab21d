"""The report page as Chromium shows it; skipped where the browser or its driver is not installed."""

import json

import numpy as np
import pytest
import searches
from webdriver import Browser, find_browser

from sklr.report import write_report

pytestmark = pytest.mark.skipif(
    None in find_browser(), reason="needs Chromium and its driver (Debian packages chromium and chromium-driver)"
)
LRS = "return [...document.querySelectorAll('#candidates tbody tr')].map(row => row.cells[2].textContent)"
SCORES = LRS.replace("cells[2]", "cells[3]")
COLORS = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(searches.diverging(), tmp_path_factory.mktemp("report") / "lr.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.slow
def test_nothing_is_complained_about_and_nothing_is_fetched(browser, page):
    browser.log("performance")
    browser.open(page)
    assert browser.log() == []
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page}


def test_a_click_on_a_column_sorts_by_it_and_another_turns_it_round(browser, page):
    browser.open(page)
    lrs = sorted(searches.diverging().lr_curve_.lr)
    browser.click("#candidates th:nth-child(3) button")
    assert list(map(float, browser.run(LRS))) == lrs
    browser.click("#candidates th:nth-child(3) button")
    assert list(map(float, browser.run(LRS))) == lrs[::-1]
    state = "return document.querySelector('#candidates th:nth-child(3)').getAttribute('aria-sort')"
    assert browser.run(state) == "descending"


def test_what_has_no_score_stays_last(browser, page):
    browser.open(page)
    for _ in range(2):
        browser.click("#candidates th:nth-child(4) button")
        *scores, last = browser.run(SCORES)
        assert last == "–"
        assert not np.isnan(np.array(scores, dtype=float)).any()


def test_the_pictures_are_seen(browser, page):
    browser.open(page)
    boxes = browser.run(
        "return [...document.querySelectorAll('figure svg')].map(svg => [svg.getBoundingClientRect().width, "
        "svg.getBoundingClientRect().height, svg.querySelectorAll('path').length])"
    )
    assert len(boxes) == 4
    for width, height, n_paths in boxes:
        assert width > 300
        assert height > 150
        assert n_paths > 20


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_colour_scheme(browser, page, scheme, is_dark):
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page)
    background, ink = (sum(map(int, c[4:-1].split(","))) for c in browser.run(COLORS))
    assert (background < ink) is is_dark
    label = "return getComputedStyle(document.querySelector('figure svg [style*=\"fill: currentColor\"]')).fill"
    assert browser.run(label) == browser.run(COLORS)[1]


def test_on_a_phone_only_the_tables_scroll_sideways(browser, page):
    browser.command("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    table = "const box = document.querySelector('#cells .scroll'); return [box.scrollWidth, box.clientWidth]"
    inner, outer = browser.run(table)
    assert inner > outer
    browser.command("Emulation.clearDeviceMetricsOverride")


def test_no_other_script_may_run(browser, page):
    browser.open(page)
    inject = "const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s)"
    browser.run(inject)
    assert browser.run("return window.hit === undefined")
    (refusal,) = browser.log()
    assert "Content Security Policy" in refusal["message"]
