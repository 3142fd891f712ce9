"""The report of real experiments, in a browser; with CLSUITE_PICTURES=FOLDER its pages are photographed there, as they stand in docs/pictures.

The experiments are small forms of `classics` and `rewarming`; with CLSUITE_GRIDS=FOLDER the whole ones in FOLDER/classics and FOLDER/rewarming.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.report.site import report_command

from .browsing import PHONE, binary, browser, complaints, opened, picture, requests

pytestmark = [pytest.mark.browser, pytest.mark.data]

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("naive", "replay", "derpp", "ewc", "joint")
SMALL: dict[str, dict[str, Any]] = {
    "classics": {"scenario": {"samples_per_class": 60}, "protocol": {"trials": 3, "finalist_seeds": 1}, "seeds": 3},
    "rewarming": {"scenario": {"tokens": 40_000, "validation_tokens": 8192, "probe_tokens": 2048}, "seeds": 3},
}
HEIGHT = 1700
"""Of a picture; pages are longer."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    binary()
    if "CLSUITE_DATA" not in os.environ:
        pytest.skip("needs CLSUITE_DATA")
    place, whole = tmp_path_factory.mktemp("reports"), os.environ.get("CLSUITE_GRIDS")
    found = {}
    for name, changes in SMALL.items():
        folder = Path(whole) / name if whole else _small(name, changes, place)
        found[name] = report_command([folder], place / f"{name} report").parent
    return found


def _small(name: str, changes: dict[str, Any], place: Path) -> Path:
    values = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    if name == "classics":
        values["strategies"] = [s for s in values["strategies"] if (s if isinstance(s, str) else s.get("label", s["name"])) in SHOWN]
        values["expect"] = [e for e in values["expect"] if isinstance(e, str) and {w for w in e.split() if w[0].isalpha()} <= set(SHOWN)]
    file = place / f"{name}.yaml"
    file.write_text(f"# {name} in small\n" + yaml.safe_dump(values, sort_keys=False))
    run_grid(read(file), place / name, workers=2)
    return place / name


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as made:
        yield made


@pytest.mark.parametrize(("name", "least"), [("classics", {"index", "scenario", "strategies", "tuning", "runs"}), ("rewarming", {"index", "text", "runs"})])
def test_every_figure_of_a_real_experiment_is_drawn_without_a_complaint(reports: dict[str, Path], driver: Any, name: str, least: set[str]) -> None:
    pages = sorted(reports[name].glob("*.html"))
    assert {p.stem for p in pages} >= least
    for page in pages:
        opened(driver, page)
        look = "f => [f.id, f.dataset.drawn, !!f.querySelector('.plot svg, .plot canvas')]"
        figures = driver.execute_script(f"return [...document.querySelectorAll('.figure')].map({look})")
        assert all(drawn == "yes" and painted for _, drawn, painted in figures), figures
        assert not complaints(driver)
        assert not [url for url in requests(driver) if not url.startswith((reports[name].as_uri(), "data:", "blob:"))]
        assert page.stat().st_size < 10_000_000


PICTURES = [
    ("classics", "index", "overview", False, None),
    ("classics", "strategies", "strategies", False, None),
    ("classics", "tuning", "tuning", False, None),
    ("rewarming", "text", "text", False, None),
    ("classics", "index", "overview-dark", True, None),
    ("classics", "index", "overview-phone", False, PHONE),
]


@pytest.mark.parametrize(("name", "page", "called", "dark", "size"), PICTURES, ids=[p[2] for p in PICTURES])
def test_pages_are_photographed(reports: dict[str, Path], tmp_path: Path, name: str, page: str, called: str, dark: bool, size: tuple[int, int] | None) -> None:
    place = Path(os.environ.get("CLSUITE_PICTURES", str(tmp_path)))
    with browser(*([size] if size else []), dark=dark) as driver:
        opened(driver, reports[name] / f"{page}.html")
        picture(driver, place / f"{called}.png", HEIGHT)
    data = (place / f"{called}.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 20_000  # a blank page is a few kilobytes
