"""The page on which strategies stand side by side: its numbers are those of the results, whatever is missing and whatever things are called."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.grid import Outcome
from clsuite.experiment.results import rows
from clsuite.experiment.spec import resolve
from clsuite.report import site
from clsuite.report.page import Cell, Figure, Page, Table
from clsuite.report.pages import learning, matrices, predictions
from clsuite.report.pages.strategies import page
from clsuite.report.study import Study

pytestmark = pytest.mark.unit

T3 = 4.302652729749464
"""97.5 % quantile of Student's t with two degrees of freedom (Fisher's table: 4.303)."""
HOSTILE = "<script>alert(1)</script> <b>& \"quoted\" 'so' %{x} " + "x" * 300
SETS = [{"name": "experience 0", "samples": 10, "learned_in": 0}, {"name": "experience 1", "samples": 30, "learned_in": 1}]


def cell(label: str, seed: int, matrix: list[list[float | None]], strategy: str = "replay", status: str = "ok", **more: Any) -> Outcome:
    """A finished cell with a matrix over two sets, unless told otherwise."""
    spec = {
        "strategy": {"name": strategy, "modifiers": more.pop("modifiers", [])},
        "seed": seed,
        "scenario": {"name": "s"},
        "protocol": {},
        "phase": "evaluation",
    }
    metrics = {"final_accuracy": 0.25 + seed / 100, "forgetting": 0.1, "plasticity": 0.9, "backward_transfer": -0.1, **more.pop("metrics", {})}
    result = {"spec": spec, "metrics": metrics, "matrix": matrix, "matrix_known_task": None, "evaluation_sets": SETS, "stream": {}, **more}
    return Outcome(label, seed, result, None, "evaluation", None, status)


def study(*outcomes: Outcome) -> Study:
    made = Study(Path("folder"), "a study", None, list(outcomes), {k: f"{k:024d}" for k in range(len(outcomes))})
    assert made.labels
    return made


def blocks(found: Page | None) -> dict[str, Any]:
    assert found is not None
    named = {block.name: block for section in found.sections for block in section.blocks if isinstance(block, (Figure, Table))}
    assert len(named) == sum(isinstance(b, (Figure, Table)) for s in found.sections for b in s.blocks), "names are unique on a page"
    return named


def records(figure: Figure) -> list[dict[str, Any]]:
    heads, found = figure.table
    assert all(len(row) == len(heads) for row in found)
    return [dict(zip(heads, row, strict=True)) for row in found]


THREE = [cell("a", seed, [[0.9, 0.1], [last, 0.8]]) for seed, last in enumerate((0.5, 0.6, 0.7))]


def test_the_average_accuracy_is_weighted_by_samples_and_its_band_is_the_t_interval() -> None:
    found = {r["experience"]: r for r in records(blocks(page(study(*THREE)))["average_accuracy"])}
    assert (found[0]["mean"], found[0]["low"], found[0]["high"], found[0]["n"]) == (0.9, 0.9, 0.9, 3)
    assert found[1]["mean"] == pytest.approx(0.75, abs=1e-15)  # (10 x 0.6 + 30 x 0.8) / 40
    half = T3 * 0.025 / math.sqrt(3)  # the seeds differ by 10 x 0.1 / 40
    assert (found[1]["low"], found[1]["high"]) == (pytest.approx(0.75 - half, abs=1e-12), pytest.approx(0.75 + half, abs=1e-12))
    drawn = [t for t in blocks(page(study(*THREE)))["average_accuracy"].traces if t["mode"] != "lines" or "fill" not in t]
    assert [list(t["x"]) for t in drawn] == [[0, 1]] and drawn[0]["y"] == [found[0]["mean"], found[1]["mean"]]


def test_heat_maps_show_mean_and_spread_of_every_entry_and_a_gap_where_nothing_was_measured() -> None:
    some = [cell("a", s, [[0.9, None], [last, 0.8]]) for s, last in enumerate((0.5, 0.6, 0.7))]
    found = blocks(page(study(*some)))
    mean, spread = found["matrix_mean"].traces[0], found["matrix_spread"].traces[0]
    assert mean["z"][0] == [0.9, None] and mean["z"][1] == [pytest.approx(0.6, abs=1e-15), 0.8]
    assert spread["z"][0] == [0.0, None] and spread["z"][1] == [pytest.approx(0.1, abs=1e-15), 0.0]
    scale = found["matrix_mean"].layout["coloraxis"]
    assert (scale["cmin"], scale["cmax"]) == (0, 1.0) and found["matrix_spread"].layout["coloraxis"]["cmax"] == pytest.approx(0.1)
    assert found["matrix_mean"].table[1][1] == ["a", 1, *mean["z"][1]]


def test_an_entry_that_one_seed_lacks_is_the_mean_of_the_others() -> None:
    grid = matrices.grid([cell("a", 0, [[0.9, None], [0.5, 0.8]]), cell("a", 1, [[0.7, 0.2], [0.5, 0.8]])])
    assert grid is not None
    assert grid.mean[0].tolist() == [pytest.approx(0.8), 0.2] and grid.n.tolist() == [[2, 1], [2, 2]]
    assert math.isnan(grid.spread[0, 1]) and grid.spread[1].tolist() == [0.0, 0.0]


def test_runs_over_another_stream_than_most_are_not_averaged_with_them() -> None:
    other = cell("a", 7, [[0.1]], evaluation_sets=SETS[:1])
    found = blocks(page(study(*THREE, other)))
    assert found["matrix_mean"].traces[0]["z"][1][0] == pytest.approx(0.6)
    assert "1 runs over another stream" in found["matrix_mean"].explanation


def test_every_finished_run_opens_its_own_matrix_and_others_say_why_not() -> None:
    failed, missing = Outcome("a", 3, None, "no memory", "evaluation", None, "oom"), Outcome("b", 0, None, None, "evaluation")
    made = page(study(*THREE, failed, missing))
    assert made is not None
    table = blocks(made)["single_runs"]
    links = table.rows[0][1:4]
    assert [c.value for c in links] == [0.25, 0.26, 0.27] and table.rows[0][4].text == "oom" and table.rows[1][1:] == [None] * 4
    for c, o in zip(links, THREE, strict=True):
        file, key = c.href.removeprefix("#details:").split("/")
        detail = made.details[file][key]
        assert detail["title"] == f"a, seed {o.seed}" and o.result is not None
        assert [p["figure"]["traces"][0]["z"] for p in detail["parts"] if "figure" in p] == [o.result["matrix"]]
    numbers = {row[0].value: row[-2:] for row in blocks(made)["metrics"].rows}
    assert numbers == {"a": [3, 1], "b": [0, 1]}


def test_details_of_a_large_grid_lie_in_a_file_a_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "FILE", 1000)
    made = page(study(*THREE, cell("b", 0, [[0.9, 0.1], [0.5, 0.8]])))
    assert made is not None and set(made.details) == {"matrices_0", "matrices_1"}
    for row in blocks(made)["single_runs"].rows:
        for c in row[1:]:
            if c is not None:
                file, key = c.href.removeprefix("#details:").split("/")
                assert key in made.details[file]


def test_references_are_known_by_their_family_and_drawn_thin_and_dashed() -> None:
    some = [cell("lower", 0, [[0.9, 0.1], [0.5, 0.8]], "naive"), cell("x", 0, [[0.9, 0.1], [0.5, 0.8]], "replay")]
    some.append(cell("with a modifier", 0, [[0.9, 0.1], [0.5, 0.8]], "naive", modifiers=[{"name": "fpf"}]))
    made = study(*some)
    lines = {t["legendgroup"]: t for t in blocks(page(made))["average_accuracy"].traces}
    assert lines["lower"]["line"] == {"color": made.looks["lower"].colour, "width": 1.5, "dash": "dash"} and "(reference)" in lines["lower"]["name"]
    assert lines["x"]["line"]["width"] > 1.5 < lines["with a modifier"]["line"]["width"]


def texts(value: Any) -> Iterator[str]:
    """Every text of a figure that plotly shows."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("name", "text", "hovertext", "ticktext", "hovertemplate"):
                yield from [inner] if isinstance(inner, str) else [t for t in inner if isinstance(t, str)] if isinstance(inner, (list, tuple)) else []
            yield from texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts(inner)


def test_names_that_look_like_markup_are_shown_letter_by_letter_and_long_ones_are_cut() -> None:
    sets = [{**SETS[0], "name": HOSTILE}, SETS[1]]
    more = {"evaluation_sets": sets, "metrics": {"task_incremental_accuracy": 0.9, "final_task_mean_accuracy": 0.5, "calibration_error": 0.2}}
    some = [cell(f"{HOSTILE}{k}", seed, [[0.9, 0.1], [0.5, 0.8]], **more) for k in range(8) for seed in range(2)]
    found = blocks(page(study(*some)))
    assert {"average_accuracy", "each_strategy", "task_accuracy", "matrix_mean", "forgetting", "transfer", "known_task", "plasticity_stability"} <= set(found)
    for figure in (b for b in found.values() if isinstance(b, Figure)):
        shown = list(texts([figure.traces, figure.layout]))
        assert shown
        for text in shown:
            bare = text.replace("<br>", "").replace("<extra></extra>", "")
            assert "<" not in bare and len(text) < 250, (figure.name, text)
            assert "hovertemplate" not in text
    assert found["average_accuracy"].table[1][0][0] == f"{HOSTILE}0", "exported numbers keep the whole name"
    assert not any(HOSTILE[:10] in str(t.get("hovertemplate")) for f in found.values() if isinstance(f, Figure) for t in f.traces)


def test_a_single_seed_has_no_band_no_spread_and_no_invented_interval() -> None:
    made = page(study(THREE[0]))
    found = blocks(made)
    assert "matrix_spread" not in found and not any("fill" in t for t in found["average_accuracy"].traces)
    assert next((r["mean"], r["low"], r["high"], r["n"]) for r in records(found["average_accuracy"])) == (0.9, None, None, 1)
    assert "error_x" not in found["forgetting"].traces[0] and "no band" in found["average_accuracy"].explanation
    assert made is not None
    json.dumps([[f.traces, f.layout, f.table] for f in found.values() if isinstance(f, Figure)], allow_nan=False)
    json.dumps(made.details, allow_nan=False)


def test_bars_have_the_mean_and_the_interval_of_the_results_best_first() -> None:
    some = [
        cell(label, s, [[0.9, 0.1], [0.5, 0.8]], metrics={"forgetting": base + 0.1 * s}) for label, base in (("worse", 0.5), ("better", 0.1)) for s in range(3)
    ]
    figure = blocks(page(study(*some)))["forgetting"]
    assert figure.layout["yaxis"]["ticktext"] == ["better", "worse"] and "lower is better" in figure.explanation
    first = records(figure)[0]
    half = T3 * 0.1 / math.sqrt(3)
    assert first["strategy"] == "better" and first["mean"] == pytest.approx(0.2) and first["high"] - first["mean"] == pytest.approx(half)
    assert figure.traces[0]["x"] == [first["mean"]] and figure.traces[0]["error_x"]["array"] == [first["high"] - first["mean"]]


def test_metrics_a_stream_does_not_define_are_left_out() -> None:
    found = blocks(page(study(*THREE)))
    assert not {"known_task", "calibration_error"} & set(found)
    assert [r["metric"] for r in records(found["transfer"])] == ["backward_transfer"]


def test_a_study_over_text_and_one_with_nothing_finished_have_no_such_page() -> None:
    assert page(study(cell("a", 0, [[2.0, 3.0], [2.5, 2.0]], metrics={"final_loss": 2.0}))) is None
    assert page(study(Outcome("a", 0, None, None, "evaluation"))) is None
    assert page(study(Outcome("a", 0, None, "broke", "evaluation", None, "error"))) is None


def test_cells_of_the_search_are_not_averaged_with_what_is_reported() -> None:
    tuned = [Outcome("a", 1000, cell("a", 1000, [[0.0, 0.0], [0.0, 0.0]]).result, None, "tuning", 0, "ok")]
    assert records(blocks(page(study(*tuned, *THREE)))["average_accuracy"])[0]["mean"] == 0.9


def test_a_long_stream_of_many_strategies_stays_small() -> None:
    length = 200
    sets = [{"name": f"set {j}", "samples": 10, "learned_in": j} for j in range(length)]
    full = [[0.123456789 + 1e-9 * (i * length + j) if i % 4 == 3 or i == j else None for j in range(length)] for i in range(length)]
    some = [cell(f"strategy {k}", 0, full, evaluation_sets=sets) for k in range(40)]
    made = page(study(*some))
    found = blocks(made)
    size = {name: len(json.dumps([f.traces, f.layout, f.table])) for name, f in found.items() if isinstance(f, Figure)}
    assert sum(size.values()) < 6e6, size
    assert made is not None and max(len(json.dumps(d)) for d in made.details.values()) < 2e6
    heat = found["matrix_mean"]
    assert len(heat.traces) == 30 and "30 of 40 strategies" in heat.explanation and "evenly spread" in heat.explanation
    drawn = heat.traces[0]
    assert {i % 4 for i in drawn["y"]} == {3}, "rows between full ones hold one set alone"
    assert all(v is not None for row in drawn["z"] for v in row) and drawn["z"][0][0] == full[drawn["y"][0]][drawn["x"][0]]
    line = next(t for t in found["average_accuracy"].traces if t["mode"] == "lines")
    assert line["x"] == [i for i in range(length) if i % 4 == 3 or i == 0], "where all learned sets were measured"


def test_intervals_by_bootstrap_are_computed_at_fewer_points_than_the_curve_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "BOOTSTRAPS", 10)
    sets = [{"name": "all", "samples": 10, "learned_in": 0}]
    some = [cell("a", s, [[0.5 + 0.001 * ((s * 7 + i) % 11)] for i in range(40)], evaluation_sets=sets) for s in range(20)]
    found = records(blocks(page(study(*some)))["average_accuracy"])
    assert len(found) == 40 and sum(r["low"] is not None for r in found) == 10 and all(r["n"] == 20 for r in found)


RAW = {"scenario": {"experiences": 3, "first_classes": 4, "samples_per_class": 20}, "model": {"name": "mlp", "hidden": [8]}, "training": {"epochs": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies that were really run, on two seeds."""
    place = tmp_path_factory.mktemp("runs")
    for strategy in ({"name": "naive"}, {"name": "replay", "buffer_size": 20}):
        for seed in range(2):
            run_cell(resolve({**RAW, "strategy": strategy, "seed": seed, "device": "cpu"}), Options(place))
    return place


def test_numbers_of_real_runs_equal_those_of_their_results(folder: Path) -> None:
    real = Study.of(folder)
    found = blocks(page(real))
    own: dict[str, list[dict[str, Any]]] = {}
    for row in rows(folder):
        own.setdefault(row["strategy"], []).append(row)
    assert {label: len(cells) for label, cells in own.items()} == {"naive": 2, "replay": 2}
    for row in found["metrics"].rows:
        head = dict(zip(found["metrics"].heads, row, strict=True))
        for metric in ("final accuracy (higher is better)", "forgetting (lower is better)", "calibration error (lower is better)"):
            values = [r[metric.split(" (")[0].replace(" ", "_")] for r in own[row[0].value]]
            assert head[metric].value == pytest.approx(statistics.fmean(values), abs=1e-15)
    last = {r["strategy"]: r for r in records(found["average_accuracy"]) if r["experience"] == 2}
    for label, cells in own.items():
        assert last[label]["mean"] == pytest.approx(statistics.fmean(r["final_accuracy"] for r in cells), abs=1e-15)
    known = {r["strategy"]: r for r in records(found["known_task"])}
    assert known["naive"]["task_incremental_accuracy"] == pytest.approx(statistics.fmean(r["task_incremental_accuracy"] for r in own["naive"]), abs=1e-15)
    for row in found["single_runs"].rows:
        assert [c.value for c in row[1:]] == [r["final_accuracy"] for r in sorted(own[row[0].value], key=lambda r: r["seed"])]


def test_the_page_of_real_runs_is_written_with_its_details(folder: Path, tmp_path: Path) -> None:
    real = Study.of(folder)
    made = page(real)
    assert made is not None
    site._write([real], [made], tmp_path, "assets")
    text = (tmp_path / "strategies.html").read_text()
    for row in blocks(made)["single_runs"].rows:
        for c in row[1:]:
            assert isinstance(c, Cell) and f'href="{c.href}"' in text
    script = (tmp_path / "data" / "matrices.js").read_text()
    assert json.loads("[" + script.removeprefix("clsuiteDetails(").rstrip().removesuffix(");") + "]") == ["matrices", made.details["matrices"]]


def test_the_share_of_predictions_on_new_classes_is_drawn_where_results_have_it(tmp_path: Path) -> None:
    import clsuite

    for seed in (0, 1):
        clsuite.run("scenario.dataset=digits", "strategy=naive", f"seed={seed}", out=tmp_path)
    study = Study.of(tmp_path)
    figure = predictions.figure(study)
    assert figure is not None
    results = [o.result["new_classes"]["predicted"] for o in study.outcomes if o.result]
    own = [row for row in figure.table[1] if row[0] == "naive"]
    assert [row[1] for row in own] == [1, 2, 3, 4]
    assert [row[2] for row in own] == [pytest.approx((results[0][i] + results[1][i]) / 2) for i in range(1, 5)]
    for o in study.outcomes:
        assert o.result is not None
        del o.result["new_classes"]  # as results of before have none
    assert predictions.figure(study) is None
