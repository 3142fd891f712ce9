"""The pages of a report as a reader meets them: in a browser, from disk."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.report.site import report_command

from .browsing import PHONE, binary, browser, complaints, opened, picture, requests

pytestmark = pytest.mark.browser

HOSTILE = "<script>alert(1)</script>\"quoted\" & 'so' " + "x" * 300
GRID = f"""\
# What <b>hostile</b> & "quoted" words look like
scenario: {{name: class_incremental, dataset: digits, experiences: 5, samples_per_class: 30}}
model: {{name: mlp, hidden: [8]}}
strategies:
  - naive
  - joint
  - {{name: replay, buffer_size: 20, label: {json.dumps(HOSTILE)}}}
search: {{training: {{learning_rate: {{low: 0.01, high: 0.3, log: true}}, epochs: [1, 2], batch_size: null, weight_decay: null}}}}
protocol: {{name: two-phase, trials: 3, tuning_seeds: 2, finalists: 2, finalist_seeds: 1}}
seeds: 3
expect: [joint - naive > 0.0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary()
    place = tmp_path_factory.mktemp("grid")
    (place / "hostile.yaml").write_text(GRID)
    run_grid(read(place / "hostile.yaml"), place / "out", workers=1)
    return place / "out"


@pytest.fixture(scope="module")
def site(folder: Path) -> Path:
    return report_command([folder], None).parent


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    return sorted(site.glob("*.html"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with browser(downloads=downloads) as made:
        made.downloads = downloads
        yield made


def test_every_figure_is_drawn_without_a_complaint_and_without_a_request_outside(driver: Any, site: Path, pages: list[Path]) -> None:
    assert {p.stem for p in pages} >= {"index", "scenario", "strategies", "tuning", "runs"}
    for page in pages:
        opened(driver, page)
        figures = driver.execute_script(
            "return [...document.querySelectorAll('.figure')].map(f => [f.id, f.dataset.drawn, !!f.querySelector('.plot svg, .plot canvas')])"
        )
        assert all(drawn == "yes" and painted for _, drawn, painted in figures), figures
        assert figures or page.stem == "runs"
        assert not driver.execute_script("return document.querySelectorAll('[data-attr*=loud], [data-title*=hare]').length"), "an upload is offered"
        assert not complaints(driver)
        outside = [url for url in requests(driver) if not url.startswith((site.as_uri(), "data:", "blob:"))]
        assert not outside


def test_hostile_names_are_shown_as_text(driver: Any, pages: list[Path]) -> None:
    for page in pages:
        opened(driver, page)
        assert not driver.execute_script("return [...document.querySelectorAll('main b, main script:not(.data)')].length"), page
        shown = driver.execute_script("return document.body.innerText")
        assert HOSTILE[:40] in shown or page.stem == "scenario", page
        wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{page.name} is {wide} pixels wider than the window"


def table(driver: Any, name: str) -> list[list[str]]:
    script = "return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr:not([hidden])')].map(r => [...r.cells].map(c => c.dataset.v))"
    found: list[list[str]] = driver.execute_script(script, name)
    return found


def test_numbers_on_the_page_are_those_of_the_results(driver: Any, site: Path, folder: Path) -> None:
    printed = subprocess.run([sys.executable, "-m", "clsuite", "results", str(folder), "--json"], capture_output=True, text=True, check=True).stdout
    rows = {row["cell"]: row for row in json.loads(printed) if row["phase"] != "shared start"}
    opened(driver, site / "runs.html")
    heads = driver.execute_script("return [...document.querySelectorAll('#runs thead th')].map(h => h.textContent)")
    found = table(driver, "runs")
    assert len(found) == len([r for r in json.loads(printed) if r["phase"] != "shared start"])
    for values in found:
        row = dict(zip(heads, values, strict=True))
        true = rows[row["cell"]]
        assert float(row["final accuracy"]) == true["final_accuracy"] and float(row["forgetting"]) == true["forgetting"]
    opened(driver, site / "index.html")
    for values in table(driver, "ranking"):
        own = [r["final_accuracy"] for r in rows.values() if r["strategy"] == values[0] and r["phase"] == "evaluation"]
        assert len(own) == 3 and float(values[1]) == pytest.approx(sum(own) / 3, abs=1e-12)


def test_tables_sort_and_search_and_rows_open(driver: Any, site: Path) -> None:
    opened(driver, site / "runs.html")
    everything = len(table(driver, "runs"))
    heads = driver.execute_script("return [...document.querySelectorAll('#runs thead th')].map(h => h.textContent)")
    column = heads.index("final accuracy")
    click = "document.querySelectorAll('#runs thead th button')[arguments[0]].click()"
    driver.execute_script(click, column)
    falling = [float(row[column]) for row in table(driver, "runs") if row[column]]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) > 3
    driver.execute_script(click, column)
    assert [float(row[column]) for row in table(driver, "runs") if row[column]] == falling[::-1]
    field = driver.find_element("css selector", "#runs input[type=search]")
    field.send_keys("naive evaluation")
    found = table(driver, "runs")
    assert len(found) == 3 < everything
    driver.find_element("css selector", "#runs tbody tr:not([hidden]) a").click()
    for _ in range(50):
        text = driver.execute_script("const d = document.getElementById('details'); return d.open ? d.innerText : ''")
        if text:
            break
        time.sleep(0.1)
    assert "clsuite run" in text and "naive" in text and "learning_rate" in text
    assert not complaints(driver)


def test_figures_and_tables_are_exported(driver: Any, site: Path) -> None:
    opened(driver, site / "index.html")
    for kind, end in (("csv", "csv"), ("svg", "svg"), ("png", "png")):
        driver.execute_script(f"document.querySelector('#ranking_intervals [data-export={kind}]').click()")
        file = driver.downloads / f"ranking_intervals.{end}"
        for _ in range(100):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        assert file.stat().st_size > 50
    rows = list(csv.reader(io.StringIO((driver.downloads / "ranking_intervals.csv").read_text())))
    assert HOSTILE in [row[0] for row in rows] and len(rows) == 4


def test_a_page_can_be_read_on_a_phone_in_the_dark_and_by_keyboard(site: Path, pages: list[Path]) -> None:
    with browser(PHONE, dark=True) as driver:
        for page in pages:
            opened(driver, page)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= driver.execute_script("return window.innerWidth") + 1, page
            back, front = driver.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
            assert sum(map(int, back[4:-1].split(","))) < 150 < 500 < sum(map(int, front[4:-1].split(",")))
            named = "e => e.textContent.trim() || e.labels?.length || e.ariaLabel"
            assert driver.execute_script(f"return [...document.querySelectorAll('button, a, input')].every({named})")
            focusable = driver.execute_script("return [...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)")
            assert focusable and driver.execute_script("return document.querySelectorAll('h1').length") == 1


def test_the_report_moves_with_its_folder(driver: Any, site: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(site, tmp_path / "elsewhere" / "a report")
    opened(driver, moved / "index.html")
    assert not complaints(driver)
    picture(driver, tmp_path / "picture.png", 2000)
    assert (tmp_path / "picture.png").stat().st_size > 20_000
