"""The page of language models: its numbers are those of the results, its marks the suite's metrics, and what it predicts is what a law says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clsuite.experiment.results import rows
from clsuite.report.losses import POINTS, Losses, bends, mean_line
from clsuite.report.page import Cell
from clsuite.report.pages import text as page_of_text
from clsuite.report.pages.text import page, perplexities
from clsuite.report.study import Study

from .text_results import BATCH, CONTEXT, blocks, computed, logged, records, study, text_result

pytestmark = pytest.mark.unit

T3 = 4.302652729749464
"""97.5 % quantile of Student's t with two degrees of freedom (Fisher's table: 4.303)."""
HOSTILE = "<script>alert(1)</script> <b>& \"quoted\" 'so' %{x} " + "x" * 300


def two(first: float, rises: dict[int, float], seed: int = 0, **more: Any) -> dict[str, Any]:
    """A run over two corpora of 20 steps each: the loss on the first one ends at `first` and then rises as given, by step."""
    curve = [(0, s, (first + 1.0 / s - 0.05, 4.0)) for s in (1, 10, 20)] + [(1, s, (first + rise, 4.0 - s / 10)) for s, rise in rises.items()]
    return text_result(curve, [[first, 4.0], [first + 1.0, 1.5 + seed / 10]], (20, 20), **more)


def test_lines_are_means_over_seeds_with_students_interval() -> None:
    made = study({"a": [two(1.0 + k, {20: 1.0}, k) for k in range(3)]})
    found = records(blocks(page(made))["loss_0"])
    at = next(r for r in found if (r["experience"], r["step"]) == (0, 20))
    half = T3 / math.sqrt(3)  # the seeds 1, 2, 3 have standard deviation 1
    assert at["loss"] == pytest.approx(2.0) and at["n"] == 3 and at["step_of_stream"] == 20
    assert (at["low"], at["high"]) == (pytest.approx(2 - half), pytest.approx(2 + half)) and at["perplexity"] == pytest.approx(math.exp(2.0))
    assert [(r["experience"], r["step"], r["step_of_stream"]) for r in found] == [(0, 0, 0), (0, 1, 1), (0, 10, 10), (0, 20, 20), (1, 20, 40)]
    assert found[0]["loss"] == 5.0  # the initial weights


def test_a_single_seed_has_a_line_and_no_band() -> None:
    figure = blocks(page(study({"a": [two(1.0, {20: 1.0})]})))["loss_0"]
    assert all(r["low"] is None and r["n"] == 1 for r in records(figure)) and not [t for t in figure.traces if "fill" in t]
    json.dumps([figure.traces, figure.layout], allow_nan=False)


def test_lines_are_over_looks_that_all_seeds_share_and_thinned_out() -> None:
    long = {(0, step): float(step) for step in range(1, 1001)}
    line = mean_line([long, {k: v + 1 for k, v in long.items() if k[1] != 500}])
    assert line is not None and len(line) == POINTS and line.n == 2
    assert line.places[0] == (0, 1) and line.places[-1] == (0, 1000) and (0, 500) not in line.places
    assert np.allclose(line.mean, [s + 0.5 for _, s in line.places])
    assert mean_line([{}]) is None


def test_the_bump_is_drawn_as_high_as_the_metric_and_where_the_middle_seed_has_it() -> None:
    rises = [{1: 0.1, 2: 0.3, 20: 0.2}, {1: 0.5, 2: 0.1, 20: 0.2}, {1: 0.1, 2: 0.7, 20: 0.2}]
    metrics = [{"bump": 0.3, "bump_step": 2}, {"bump": 0.5, "bump_step": 1}, {"bump": 0.7, "bump_step": 2}]
    made = study({"a": [two(1.0, r, k, metrics=m) for k, (r, m) in enumerate(zip(rises, metrics, strict=True))]})
    losses = Losses(made)
    for seed, own in enumerate(metrics):
        curve = losses.after_border("a", seed)
        assert max(curve.items(), key=lambda p: p[1]) == ((1, own["bump_step"]), pytest.approx(own["bump"]))
    figure = blocks(page(made))["bump"]
    mark = next(t for t in figure.traces if t["mode"] == "markers")
    assert mark["x"] == [2] and mark["y"] == [pytest.approx(0.5)] and mark["error_y"]["array"] == [pytest.approx(T3 * 0.2 / math.sqrt(3))]
    assert {r["step"]: pytest.approx(r["mean"]) for r in records(figure)} == {1: 0.7 / 3, 2: 1.1 / 3, 20: 0.2}


def test_a_strategy_waits_where_others_take_more_steps() -> None:
    def run(first: int, last: int) -> dict[str, Any]:
        return text_result([(0, first, (2.0, 4.0)), (1, last, (3.0, 1.0))], [[2.0, 4.0], [3.0, 1.0]], (first, last))

    losses = Losses(study({"short": [run(10, 10)], "long": [run(30, 60)], "late": [text_result([(1, 10, (3.0, 1.0))], [[None, None], [3.0, 1.0]], (0, 10))]}))
    assert losses.starts == [0, 30] and losses.longest == [30, 60]
    lines = {t["name"]: t for t in blocks(page(losses.study))["loss_0"].traces if t["mode"] == "lines"}
    assert lines["short"]["x"] == [0, 10, None, 40] and lines["long"]["x"] == [0, 30, 90] and lines["late"]["x"] == [30, 40]


def test_learning_rates_keep_their_corners_and_lose_what_lies_between(tmp_path: Path) -> None:
    x = list(range(10, 1010, 10))
    rates = [0.01 * min(1.0, s / 100, (1000 - s) / 200 + 1e-9) for s in x]
    assert [x[k] for k in bends(x, rates, 1e-6)] == [10, 100, 800, 1000]
    cosine = [0.005 * (1 + math.cos(math.pi * s / 1000)) for s in x]
    kept = bends(x, cosine, 2e-5)
    assert len(kept) < 30 and max(abs(np.interp(x, [x[k] for k in kept], [cosine[k] for k in kept]) - cosine)) <= 2e-5
    made = study({"a": [two(1.0, {20: 1.0})], "no log": [two(1.0, {20: 1.0})]}, tmp_path)
    rows_ = [{"step": s, "learning_rate": 0.01, "loss": 2.0, "experience": 0} for s in (10, 20)]
    logged(made, "a", [*rows_, {"step": 30, "learning_rate": 0.005, "loss": 2.0, "experience": 1}])
    losses = Losses(made)
    assert losses.rates("a") == [((0, 10), 0.01), ((0, 20), 0.01), ((1, 10), 0.005)] and losses.rates("no log") == []


def test_final_losses_and_forgetting_are_those_of_the_results() -> None:
    metrics = [{"forgetting": 0.2 * k, "forgetting_error": 0.01} for k in range(3)]
    made = study({"a": [two(1.0, {20: 1.0}, k, metrics=m) for k, m in enumerate(metrics)], "b": [two(2.0, {20: 1.0})]})
    named = blocks(page(made))
    (a, b) = records(named["final_loss_1"])
    assert (a["strategy"], b["strategy"]) == ("b", "a") and b["loss"] == pytest.approx(1.6) and a["low"] is None
    point = next(iter(named["forgetting_adaptation"].table[1]))
    half = T3 / math.sqrt(3)
    assert list(point) == ["a", *map(pytest.approx, (1.6, 1.6 - 0.1 * half, 1.6 + 0.1 * half, 0.2, 0.2 - 0.2 * half, 0.2 + 0.2 * half)), 3]
    heads, table = named["final_losses"].heads, {row[0].value: row for row in named["final_losses"].rows}
    assert table["a"][heads.index("bits per byte on law")].value == pytest.approx(2.4)


def test_tokens_replayed_and_beside_the_line() -> None:
    report = {"replay": {"trained": [80, 60], "replayed": [20, 0]}}
    branch = {"backward_passes": 170, "deployment": {"backward_passes": 10}}
    runs = {"plain": two(1.0, {20: 1.0}), "replay": two(1.0, {20: 1.0}, reports=report), "branch": two(1.0, {20: 1.0})}
    runs["branch"]["cost"] |= branch
    named = blocks(page(study({k: [v] for k, v in runs.items()})))
    found = {(r["strategy"], r["experience"]): (r["current_tokens"], r["replayed_tokens_of_it"]) for r in records(named["tokens_trained"])}
    assert found["plain", 0] == found["plain", 1] == (20 * BATCH * CONTEXT, 0) and found["replay", 0] == (80 * CONTEXT, 20 * CONTEXT)
    assert found["branch", "beside the line"] == (20 * CONTEXT, 0) and found["replay", "beside the line"] == (0, 0)
    heads, table = named["tokens"].heads, {row[0].value: row for row in named["tokens"].rows}
    assert table["replay"][heads.index("replayed share")].value == pytest.approx(20 / 80)  # of the 80 windows of the second experience


def test_names_are_shown_as_text_and_nothing_in_them_counts_for_plotly() -> None:
    names = ("<b>bold</b>", "$x$ & 'y'")
    results = [text_result([(0, 1, (2.0, 3.0)), (1, 1, (2.5, 2.0))], [[2.0, 3.0], [2.5, 2.0]], (1, 1), names, {"forgetting": 0.5, "bump": 0.5, "bump_step": 1})]
    found = page(study({HOSTILE: results, "b": results}))
    for figure in blocks(found).values():
        if hasattr(figure, "traces"):
            shown = json.dumps([[t.get("name"), t.get("hovertemplate")] for t in figure.traces]) + json.dumps(figure.layout).replace("<br>", "")
            assert "<" not in shown and HOSTILE not in shown, figure.name
            assert not any(HOSTILE[:20] in str(t.get("hovertemplate")) for t in figure.traces)


def test_perplexities_are_round_and_neither_too_few_nor_too_many() -> None:
    assert perplexities(0.0, math.log(1000)) == [1, 10, 100, 1000]
    assert perplexities(math.log(4.9), math.log(7.1)) == [5, 5.5, 6, 7]
    assert perplexities(math.log(1.9), math.log(11)) == [2, 3, 4, 5, 7, 10] and perplexities(1.5, 1.5001) == [4.482]


def curve_of_the_law(rates: np.ndarray) -> np.ndarray:
    """L = 1.5 + 0.4 S1^-0.5 - 0.3 S2 by hand, a loss an update (Tissue et al. 2024, lambda 0.999)."""
    losses, area, momentum, annealed = [], 0.0, 0.0, 0.0
    for k, rate in enumerate(rates):
        momentum = 0.999 * momentum + (rates[k - 1] - rate if k else 0.0)
        area, annealed = area + rate, annealed + momentum
        losses.append(1.5 + 0.4 * area**-0.5 - 0.3 * annealed)
    return np.array(losses)


def law_study(folder: Path, **other: Any) -> Study:
    """Three schedules on one corpus whose losses follow the law exactly, and one strategy that differs in something else."""
    steps = 600
    share = np.arange(steps) / steps
    schedules = {"constant": np.ones(steps), "cosine": 0.5 * (1 + np.cos(np.pi * share)) + 0.01, "linear": 1.01 - share, "bigger": 1.01 - share}
    results = {}
    for label in schedules:
        spec = {"training": {"batch_size": BATCH, "schedule": {"name": label}, "learning_rate": 0.02}, **(other if label == "bigger" else {})}
        results[label] = [text_result([(0, steps, (2.0,))], [[2.0]], (steps,), ("novels",), spec=spec)]
    made = study(results, folder)
    for label, factors in schedules.items():
        losses = curve_of_the_law(0.02 * factors)
        logged(made, label, [{"step": s, "loss": losses[s - 1], "learning_rate": 0.02 * factors[s - 1]} for s in range(1, steps + 1, 10)])
    return made


def test_a_law_fitted_to_some_curves_predicts_the_others(tmp_path: Path) -> None:
    named = blocks(page(law_study(tmp_path, model={"name": "another"})))
    heads, table = named["law"].heads, {row[0].value: row for row in named["law"].rows}
    assert {label: row[1] for label, row in table.items()} == {"cosine": "fitted", "constant": "fitted", "linear": "predicted"}
    assert table["linear"][heads.index("mean absolute error")] < 0.002 and table["linear"][heads.index("R2")] > 0.999
    assert table["linear"][heads.index("error without annealing")] > 10 * table["linear"][heads.index("mean absolute error")]
    drawn = records(named["law_0"])
    truth = curve_of_the_law(0.02 * (1.01 - np.arange(600) / 600))
    assert all(r["measured"] == pytest.approx(truth[r["step"] - 1]) and abs(r["predicted"] - r["measured"]) < 0.01 for r in drawn)


def test_nothing_is_predicted_where_strategies_differ_in_more_than_the_rate() -> None:
    def named(k: int) -> dict[str, Any]:
        return {"strategy": {"name": f"s{k}", "modifiers": []}}

    made = study({f"s{k}": [text_result([(0, 10, (2.0,))], [[2.0]], (10,), ("novels",), spec=named(k))] for k in range(4)})
    assert not [name for name in blocks(page(made)) if name.startswith("law")]


def test_many_strategies_corpora_and_experiences_make_a_page_that_a_browser_can_hold() -> None:
    count = 20
    curve = [(i, s, [2.0 + math.sin(i * s + j) for j in range(count)]) for i in range(count) for s in (1, 2, 4, 8, 16, *range(20, 400, 20))]
    matrix = [[2.0 + j / 10 for j in range(count)] for _ in range(count)]
    made = text_result(curve, matrix, [400] * count, [f"corpus {j}" for j in range(count)], {"forgetting": 0.1, "bump": 0.1, "bump_step": 1})
    named = blocks(page(study({f"strategy {k}": [made, made] for k in range(25)})))
    assert len([name for name in named if name.startswith("loss_")]) == 8 and {"loss_0", "loss_19"} <= set(named)
    size = sum(len(json.dumps([f.traces, f.layout, f.table[1]])) for f in named.values() if hasattr(f, "traces"))
    assert size < 6_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grid")
    (place / "tiny.yaml").write_text(
        """\
# A tiny experiment over text
scenario: {name: llm_pretraining, corpora: ['synthetic:0', 'synthetic:0:0.5'], tokens: 6400, context: 32, validation_tokens: 640, probe_tokens: 320}
model: {name: gpt_neox, layers: 1, width: 16, heads: 2}
training: {batch_size: 8, learning_rate: 3e-3}
device: cpu
strategies:
  - {name: naive, label: hold, with: {training: {border: hold}}}
  - {name: naive, label: rewarm, with: {training: {border: ibrahim2024}}}
  - {name: naive+stream_replay, label: replay, stream_replay: {share: 0.25}, with: {training: {border: ibrahim2024}}}
  - {name: joint, label: union}
references: {hold: hold, without_replay: rewarm, union: union}
columns: [final_loss, bump_over_hold, gap_closed]
protocol: {name: fixed}
seeds: 2
"""
    )
    return computed(place / "tiny.yaml", place / "out")


def test_what_a_real_grid_measured_is_on_the_page(folder: Path) -> None:
    made = Study.of(folder)
    named = blocks(page(made))
    assert {"loss_0", "loss_1", "final_losses", "bump", "bump_over_hold", "bump_over_hold_downstream", "forgetting_adaptation", "tokens"} <= set(named)
    flat = [r for r in rows(folder) if r["phase"] == "evaluation"]
    heads = list(named["final_losses"].heads)
    for row in named["final_losses"].rows:
        own = [r for r in flat if r["strategy"] == row[0].value]
        for head, metric in (("mean loss", "final_loss"), ("perplexity", "final_perplexity"), ("bits per byte", "final_bits_per_byte")):
            assert row[heads.index(head)].value == pytest.approx(sum(r[metric] for r in own) / 2, abs=1e-12), (row[0].text, metric)
    losses = Losses(made)
    assert losses.starts_anew("union") and not losses.starts_anew("rewarm")
    assert {t["legendgroup"] for t in named["bump"].traces} == {"hold", "rewarm", "replay"}
    length = losses.longest[-1]
    for o in made.done:
        if o.label in ("rewarm", "replay"):
            excess = {p[1]: v for p, v in losses.over("hold", losses.earlier)(o.label, o.seed).items() if p[1] <= max(1, 0.1 * length)}
            assert max(excess.values()) == pytest.approx(o.referred["bump_over_hold"])
            rises = {p[1]: v for p, v in losses.after_border(o.label, o.seed).items() if p[1] <= max(1, 0.1 * length)}
            assert o.result is not None and max(rises.values()) == pytest.approx(o.result["metrics"]["bump"])
    replay = next(row for row in named["tokens"].rows if row[0].value == "replay")
    share = replay[list(named["tokens"].heads).index("replayed share")]
    assert isinstance(share, Cell) and share.value == pytest.approx(0.25, abs=0.01)
    seed = next(iter(losses.cells["rewarm"]))
    events = [json.loads(line) for line in (made.folder_of(losses.ids["rewarm", seed]) / "metrics.jsonl").read_text().splitlines()]
    rates = {e["step"]: e["learning_rate"] for e in events if e["event"] == "loss"}
    line = next(t for t in named["loss_0"].traces if t.get("yaxis") == "y2" and t["legendgroup"] == "rewarm")
    assert dict(zip(line["x"], line["y"], strict=True)) == pytest.approx(rates, rel=1e-5) and max(rates.values()) > 1e-3 and len(rates) > 4


def test_where_accuracies_are_measured_there_is_no_page_of_text() -> None:
    made = study({"a": [two(1.0, {20: 1.0})]})
    assert made.is_text and page(made) is not None
    for o in made.outcomes:
        assert o.result is not None
        o.result["metrics"] = {"final_accuracy": 0.5}
    assert page_of_text.page(made) is None
