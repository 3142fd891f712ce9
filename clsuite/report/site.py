"""`clsuite report`: a folder of HTML that opens from disk, years later, with no network.

index.html, scenario.html, strategies.html, tuning.html, text.html, runs.html    of one folder; with several, a folder of pages each
assets/                                                                          style, script and plotly, once
data/                                                                            details of runs, loaded when a row is opened
figures/                                                                         drawings and tables for papers, where they are asked for
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from .. import __version__
from ..experiment.folder import plain
from .figures import checked, write
from .page import Cell, Figure, Page
from .study import Study, of_all
from .text import console

PAGES = ("overview", "scenario", "strategies", "tuning", "text", "runs")
"""Modules of `pages`, in the order of the navigation; each has `page(study)`, which gives None where there is nothing to show."""
ASSETS = ("report.css", "report.js")


def report_command(folders: Sequence[Path], out: Path | None, figures: str | None = None) -> Path:
    """Build the report of one or several folders and say where it is; its first page. Default place: `report/` in the first folder.

    `figures`: also drawings and tables for papers, in `figures/` beside the pages, as `pdf`, `svg` or `png`.
    """
    figures = checked(figures)
    studies = of_all(folders)
    first = build(studies, out or folders[0] / "report", figures)
    shown = console()
    for study in studies:
        for problem in study.problems:
            shown.print(f"{study.name}: {problem}", soft_wrap=True)
    shown.print(f"report: {first}", soft_wrap=True)
    if figures is not None:
        places = [first.parent] if len(studies) == 1 else [first.parent / f"{k + 1}" for k in range(len(studies))]
        shown.print(f"figures and tables for papers: {', '.join(str(place / 'figures') for place in places)}", soft_wrap=True)
    return first


def build(studies: Sequence[Study], out: Path, figures: str | None = None) -> Path:
    """Write the pages; what was there of an earlier report is replaced. Returns the first page."""
    out.mkdir(parents=True, exist_ok=True)
    _copy_assets(out / "assets")
    if len(studies) == 1:
        pages = pages_of(studies[0])
        first = _write(studies, pages, out, "assets")
        if figures is not None:
            write(studies[0], pages, out / "figures", figures)
        return first
    from .pages.comparison import page as comparison

    places = [f"{k + 1}" for k in range(len(studies))]
    for study, place in zip(studies, places, strict=True):
        (out / place).mkdir(exist_ok=True)
        pages = pages_of(study)
        _write([study], pages, out / place, "../assets", [("Comparison", "../index.html")])
        if figures is not None:
            write(study, pages, out / place / "figures", figures)
    links = [(study.name, f"{place}/index.html") for study, place in zip(studies, places, strict=True)]
    return _write(studies, [comparison(studies, dict(zip(places, studies, strict=True)))], out, "assets", links)


def pages_of(study: Study) -> list[Page]:
    """The pages there is something to show on."""
    made = [import_module(f"{__package__}.pages.{name}").page(study) for name in PAGES]
    return [page for page in made if page is not None]


def _write(studies: Sequence[Study], pages: Sequence[Page], out: Path, assets: str, links: Sequence[tuple[str, str]] = ()) -> Path:
    """Pages of one study, or of the comparison of several."""
    template = _template()
    navigation = [(page.title, f"{page.name}.html") for page in pages]
    leaky = [s.name for s in studies if s.experiment is not None and s.experiment.protocol.leaky]
    about = {"name": " and ".join(s.name for s in studies), "leaky": leaky, "alone": len(studies) == 1}
    for page in pages:
        text = template.render(page=page, **about, navigation=navigation, links=links, assets=assets, version=__version__, block=_kind)
        (out / f"{page.name}.html").write_text(text, encoding="utf-8")
        for name, value in page.details.items():
            (out / "data").mkdir(exist_ok=True)
            (out / "data" / f"{name}.js").write_text(f"clsuiteDetails({_script(name)}, {_script(value)});\n", encoding="utf-8")
    return out / f"{pages[0].name}.html"


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {"script": _script, "figure": _figure, "cell": _cell, "sortable": _sortable}
    environment.filters.update(filters)
    return environment.from_string(_asset("page.html.j2").read_text(encoding="utf-8"))


def _asset(name: str) -> Any:
    return resources.files(__package__) / "assets" / name


def _copy_assets(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ASSETS:
        (folder / name).write_bytes(_asset(name).read_bytes())
    library = resources.files("plotly") / "package_data" / "plotly.min.js"
    with resources.as_file(library) as source:
        shutil.copyfile(source, folder / "plotly.min.js")


def _kind(block: Any) -> str:
    return type(block).__name__.lower()


def _script(value: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element or begin a comment."""
    import markupsafe

    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return markupsafe.Markup(safe)


def _figure(figure: Figure) -> dict[str, Any]:
    heads, rows = figure.table
    return {"name": figure.name, "traces": list(figure.traces), "layout": figure.layout, "heads": list(heads), "rows": [list(row) for row in rows]}


def _cell(value: Any) -> Cell:
    """Any value of a table as what is shown and what it stands for."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("-", None)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", value)
    if isinstance(value, float):
        return Cell(f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}", value)
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(str(value), str(value))


def _sortable(cell: Cell) -> str:
    """The exact value as text: what a column is sorted by and a CSV file holds."""
    value = cell.text if cell.value is None and cell.text != "-" else cell.value
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
