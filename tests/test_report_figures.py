"""Figures and tables for papers: the page's numbers, texts as texts, LaTeX that is whole, and nothing that is not to be there."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import clsuite.report
from clsuite.errors import UsageError
from clsuite.experiment.grid import Outcome
from clsuite.report.drawing import COLUMN, TEXT, drawings, shown, style
from clsuite.report.figures import FORMS, write
from clsuite.report.page import Figure, Page
from clsuite.report.pages import overview, strategies, text
from clsuite.report.paper_tables import latex, markdown, ranking, ranking_files, verdict_files
from clsuite.report.site import report_command
from clsuite.report.study import Study

from .text_results import blocks, computed, study, text_result

pytestmark = pytest.mark.unit

HOSTILE = '_<b>$x_1$ & 50% {of} #1~^\\ "it\'s" | `co de` ' + "x" * 300
GRID = f"""\
# A tiny experiment
scenario: {{name: class_incremental, dataset: digits, experiences: 5, samples_per_class: 20}}
model: {{name: mlp, hidden: [8]}}
training: {{batch_size: 16, epochs: 2}}
device: cpu
strategies:
  - naive
  - joint
  - {{name: replay, buffer_size: 20, label: {json.dumps(HOSTILE)}}}
columns: [final_accuracy, forgetting, plasticity]
protocol: {{name: fixed}}
seeds: 3
expect: [joint - naive > 0.0]
"""
MAIN = {"ranking_intervals", "cost", "average_accuracy", "matrix_mean", "forgetting", "plasticity_stability"}
TABLES = {f"{name}.{form}" for name in ("ranking", "verdicts") for form in ("tex", "md", "csv")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grid")
    (place / "tiny.yaml").write_text(GRID)
    return computed(place / "tiny.yaml", place / "out")


@pytest.fixture(scope="module")
def made(folder: Path) -> Study:
    return Study.of(folder)


@pytest.fixture(scope="module")
def pages(made: Study) -> list[Page]:
    return [page for page in (overview.page(made), strategies.page(made)) if page is not None]


def named(pages: list[Page]) -> dict[str, Any]:
    return {name: block for page in pages for name, block in blocks(page).items()}


@pytest.mark.parametrize("form", FORMS)
def test_files_are_what_their_names_say_and_the_same_bytes_again(made: Study, pages: list[Page], tmp_path: Path, form: str) -> None:
    found = write(made, pages, tmp_path / "all", form)
    assert {p.name for p in found} == {f"{name}.{form}" for name in MAIN} | TABLES
    again = write(made, pages[:1], tmp_path / "again", form)
    assert len(again) == 2 + len(TABLES)
    for path in again:
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes(), path.name
    for path in found:
        data = path.read_bytes()
        if form == "pdf" and path.suffix == ".pdf":
            assert data.startswith(b"%PDF") and b"/Type3" not in data and b"/CIDFontType2" in data  # TrueType: texts can be searched and edited
        if form == "png" and path.suffix == ".png":
            width, _ = struct.unpack(">II", data[16:24])
            assert width in (round(COLUMN * 300), round(TEXT * 300))


def test_texts_are_texts_and_nothing_is_loaded_from_elsewhere(made: Study, pages: list[Page], tmp_path: Path) -> None:
    for path in write(made, pages, tmp_path, "svg"):
        if path.suffix == ".svg":
            tree = ElementTree.parse(path)
            words = ["".join(e.itertext()) for e in tree.iter("{http://www.w3.org/2000/svg}text")]
            assert any("naive" in w for w in words) and any("<b>$x_1$" in w for w in words), path.name
            links = [v for e in tree.iter() for k, v in e.attrib.items() if k.endswith("href") and not v.startswith(("#", "data:"))]
            assert not links and not list(tree.iter("{http://purl.org/dc/elements/1.1/}date"))


def axes_of(figure: Figure, made: Study) -> list[Any]:
    with style():
        drawing = drawings(figure, made)
        assert len(drawing) == 1 and not drawing[0].get_suptitle()
        return drawing[0].axes


def test_what_is_drawn_is_what_the_page_says(made: Study, pages: list[Page]) -> None:
    found = named(pages)
    ranking_, (axes,) = found["ranking_intervals"], axes_of(found["ranking_intervals"], made)
    marks = [container.lines[0] for container in axes.containers]
    assert [float(m.get_xdata()[0]) for m in marks] == [row[1] for row in ranking_.table[1]]
    bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert [(b[0][0], b[1][0]) for b in bars] == [(pytest.approx(row[2]), pytest.approx(row[3])) for row in ranking_.table[1]]
    assert [t.get_text() for t in axes.get_yticklabels()] == [shown(row[0]) for row in ranking_.table[1]]
    (axes,) = axes_of(found["average_accuracy"], made)
    heads, rows = found["average_accuracy"].table
    for label, line in zip(made.labels, [line for line in axes.lines if len(line.get_xdata()) == 5], strict=True):
        assert line.get_ydata().tolist() == [pytest.approx(row[heads.index("mean")]) for row in rows if row[0] == label]
        assert line.get_color() == made.looks[label].colour
    images = [a.images[0].get_array() for a in axes_of(found["matrix_mean"], made) if a.images]
    for label, image in zip(made.labels, images, strict=False):
        own = [row[2:] for row in found["matrix_mean"].table[1] if row[0] == label]
        assert np.allclose(np.asarray(image), np.array(own, dtype=float))


def test_figures_over_text_are_drawn_with_their_borders_and_rates() -> None:
    curve = [(0, 1, (4.0, 5.0)), (0, 20, (2.0, 4.0)), (1, 1, (2.2, 3.0)), (1, 20, (2.5, 1.5))]
    metrics = {"bump": 0.2, "bump_step": 1, "forgetting": 0.5}
    runs = [text_result(curve, [[2.0, 4.0], [2.5 + k / 10, 1.5 + k / 10]], (20, 20), metrics=metrics) for k in range(3)]
    made = study({"a": runs, "b": runs})
    found = blocks(text.page(made))
    for name in ("loss_0", "final_loss_1", "bump", "forgetting_adaptation"):
        assert axes_of(found[name], made), name
    axes = axes_of(found["loss_0"], made)[0]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"] == [[20, 20]]
    assert next(list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 5) == [5.0, 4.0, 2.0, 2.2, 2.5]
    x, y = (axes_of(found["forgetting_adaptation"], made)[0].containers[0].lines[0].get_data()[k][0] for k in (0, 1))
    assert (x, y) == (pytest.approx(1.6), pytest.approx(0.5))


def test_a_figure_for_the_screen_alone_is_not_drawn(made: Study) -> None:
    assert drawings(Figure("trials", "", "", [], {}, (["a"], [["b"]])), made) == []


def outcome(label: str, seed: int, accuracy: float, forgetting: float | None, strategy: str = "replay") -> Outcome:
    cost = {"backward_passes": 100, "deployment": {"backward_passes": 0}}
    metrics = {"final_accuracy": accuracy, "forgetting": forgetting}
    result = {"metrics": metrics, "cost": cost, "spec": {"strategy": {"name": strategy, "modifiers": []}, "seed": seed}}
    return Outcome(label, seed, result, None, "run", None, "ok")


def ranked() -> Study:
    scores = {
        "best": (0.90, 0.80, 0.85),
        "tied": (0.89, 0.81, 0.84),  # differences -0.01, 0.01, -0.01: mean -0.0033, half of the interval 0.0287
        "worse": (0.88, 0.78, 0.8301),  # -0.02, -0.02, -0.0199: far from 0 although the means' intervals overlap
        "bound": (0.99, 0.98, 0.97),
    }
    own = [
        outcome(label, k, v, (0.1 + k / 100 if label != "tied" else None if k else 0.3), "joint" if label == "bound" else "replay")
        for label, s in scores.items()
        for k, v in enumerate(s)
    ]
    return Study(Path("folder"), "a study", None, own, {k: f"{k:024d}" for k in range(len(own))})


def test_the_best_is_marked_and_what_pairs_of_seeds_do_not_tell_from_it() -> None:
    table = ranking(ranked())
    assert table is not None and table.labels == ["bound", "best", "tied", "worse"] and table.references == ["bound"]
    assert table.marks["final_accuracy"] == {"best": "best", "tied": "tied"}
    files = ranking_files(ranked())
    rows = {line.split(" & ")[0]: line for line in files["ranking.tex"].splitlines() if " & " in line}
    half = 4.302652729749464 * 0.05 / math.sqrt(3)
    assert rf"$\mathbf{{0.8500 \pm {half:.4f}}}$" in rows["best"] and rows["tied"].count(r"^\dagger") == 2 and r"\dagger" not in rows["worse"].split(" & ")[1]
    assert r"\mathbf" not in rows["bound"] and "(n = 1)" in rows["tied"] and rows["tied"].endswith(r" & 3 \\")
    assert "**0.8500" in files["ranking.md"] and "Not ranked" in files["ranking.md"] and files["ranking.tex"].count("Not ranked") == 1
    exact = {row["strategy"]: row for row in csv.DictReader(io.StringIO(files["ranking.csv"]))}
    assert float(exact["tied"]["final_accuracy"]) == sum((0.81, 0.84, 0.89)) / 3 and exact["tied"]["final_accuracy_mark"] == "tied"
    assert float(exact["best"]["final_accuracy_high"]) == pytest.approx(0.85 + half) and exact["tied"]["forgetting_low"] == ""


def test_where_nothing_is_but_bounds_one_of_them_is_best() -> None:
    made = ranked()
    made.outcomes = [o for o in made.outcomes if o.label == "bound"]
    table = ranking(made)
    assert table is not None and table.references == [] and table.marks["final_accuracy"] == {"bound": "best"}


def unescaped(line: str, letter: str) -> int:
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(letter)}", line))


def test_latex_is_whole_whatever_things_are_called(made: Study) -> None:
    for name, content in {**ranking_files(made), **verdict_files(made)}.items():
        if not name.endswith(".tex"):
            continue
        lines = [line for line in content.splitlines() if not line.startswith("%")]
        body = "\n".join(lines)
        assert unescaped(body, "{") == unescaped(body, "}") > 0 and unescaped(body, "$") % 2 == 0
        assert not unescaped(body, "%") and not unescaped(body, "#") and not unescaped(body, "~")
        assert [body.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}", r"\end{tabular}")] == [1] * 5
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", body).group(1))  # type: ignore[union-attr]
        rows = [line for line in lines if line.endswith(r"\\") and r"\multicolumn" not in line]
        assert len(rows) >= 2 and {unescaped(row, "&") for row in rows} == {columns - 1}
        for note in (line for line in lines if r"\multicolumn" in line):
            assert f"multicolumn{{{columns}}}" in note
    assert latex("a_b & 5% \\ {x}\n$y$ ~^<>") == r"a\_b \& 5\% \textbackslash{} \{x\} \$y\$ \textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"


def test_markdown_rows_have_as_many_cells_as_heads(made: Study) -> None:
    for name, content in {**ranking_files(made), **verdict_files(made)}.items():
        if name.endswith(".md"):
            lines = [line for line in content.splitlines() if line.startswith("|")]
            assert len(lines) >= 3 and len({unescaped(line, "|") for line in lines}) == 1 and "<b>" not in content
    assert markdown("a|b*c <b>") == r"a\|b\*c &lt;b&gt;"


def test_tables_hold_the_exact_numbers_of_the_results(made: Study) -> None:
    own = {label: [o.result["metrics"]["final_accuracy"] for o in made.done if o.label == label] for label in made.labels}  # type: ignore[index]
    exact = list(csv.DictReader(io.StringIO(ranking_files(made)["ranking.csv"])))
    assert {row["strategy"] for row in exact} == set(own) and HOSTILE in own
    for row in exact:
        assert float(row["final_accuracy"]) == pytest.approx(sum(own[row["strategy"]]) / 3, abs=1e-15) and row["final_accuracy_n"] == "3"
    (claim,) = csv.DictReader(io.StringIO(verdict_files(made)["verdicts.csv"]))
    difference = np.mean(own["joint"]) - np.mean(own["naive"])
    assert claim["claim"].startswith("joint - naive > 0") and float(claim["difference"]) == pytest.approx(difference) and claim["n"] == "3"


def test_names_are_shown_letter_by_letter(made: Study) -> None:
    assert shown("_a") == " _a" and shown("$x$") == r"\$x\$" and len(shown("x" * 300)) == 26 and shown("a\n b") == "a b"


def test_the_command_writes_them_beside_the_pages_and_keeps_what_is_not_its_own(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    with pytest.raises(UsageError, match="--figures = 'gif' is not valid: expected pdf, svg or png"):
        report_command([folder], out, "gif")
    assert not out.exists()
    (out / "figures").mkdir(parents=True)
    for name in ("cost.svg", "notes.md", "my_cost.pdf"):
        (out / "figures" / name).write_text("mine")
    report_command([folder], out, "pdf")
    names = {p.name for p in (out / "figures").iterdir()}
    assert names == {f"{name}.pdf" for name in MAIN} | TABLES | {"notes.md", "my_cost.pdf"}


def test_nothing_draws_before_it_is_asked_to() -> None:
    package = Path(clsuite.report.__file__).parent
    for file in [*package.glob("*.py"), *(package / "pages").glob("*.py")]:
        top = [n for n in ast.parse(file.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
        loaded = {alias.name for n in top if isinstance(n, ast.Import) for alias in n.names} | {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
        assert not any(name.split(".")[0] in ("matplotlib", "plotly", "jinja2") for name in loaded), file.name
