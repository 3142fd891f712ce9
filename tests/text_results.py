"""Studies over text whose losses are given by hand, for tests of what a report makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.file import read
from clsuite.experiment.folder import cell_folder
from clsuite.experiment.grid import Outcome
from clsuite.experiment.spec import resolve
from clsuite.report.page import Figure, Page, Table
from clsuite.report.study import Study

CONTEXT, BATCH = 8, 4


def text_result(
    curve: Sequence[tuple[int, int, Sequence[float]]],
    matrix: Sequence[Sequence[float | None]],
    steps: Sequence[int],
    names: Sequence[str] = ("novels", "law"),
    metrics: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A result: `curve` holds experience, step in it and losses by corpus; corpus i is learned in experience i."""
    passes = sum(steps) * BATCH
    none = {"gradient_steps": 0, "forward_passes": 0, "backward_passes": 0, "feature_passes": 0}
    cost = {"gradient_steps": sum(steps), "forward_passes": passes, "backward_passes": passes, "seconds": 1.0, "deployment_seconds": 0.0, "deployment": none}
    last = [v for v in matrix[-1] if v is not None]
    found = {"final_loss": sum(last) / len(last), "loss_first_corpus": last[0], "loss_last_corpus": last[-1], "forgetting": None, "forgetting_error": None}
    empty = dict.fromkeys(("bump", "bump_error", "bump_step", "recovery_step", "downstream_area", "tokens_per_second"))
    return {
        "status": "ok",
        "metrics": {**found, "final_perplexity": None, "final_bits_per_byte": None, **empty, **(metrics or {})},
        "matrix": [list(row) for row in matrix],
        "matrix_bits_per_byte": [[None if v is None else 1.5 * v for v in row] for row in matrix],
        "initial_loss": [5.0] * len(names),
        "loss_curve": [{"experience": i, "step": step, "losses": list(values)} for i, step, values in curve],
        "evaluation_sets": [{"name": name, "samples": 4, "learned_in": i} for i, name in enumerate(names)],
        "cost": cost,
        "reports": {},
        "rates": [{"steps": s, "rewarm_steps": None, "branch_from": None} for s in steps],
        "spec": {
            "seed": 0,
            "strategy": {"name": "naive", "modifiers": []},
            "scenario": {"name": "llm_pretraining", "context": CONTEXT},
            "model": {"name": "gpt_neox"},
            "training": {"batch_size": BATCH, "learning_rate": 0.01, "schedule": {"name": "constant"}},
            **(spec or {}),
        },
        "stream": {},
        **more,
    }


def study(results: Mapping[str, Sequence[dict[str, Any]]], folder: Path = Path("folder")) -> Study:
    """A folder of single runs in memory: by strategy a result a seed."""
    outcomes = [Outcome(label, seed, result, None, "run", None, "ok") for label, own in results.items() for seed, result in enumerate(own)]
    return Study(folder, "a study", None, outcomes, {k: f"{k:024d}" for k in range(len(outcomes))})


def logged(made: Study, label: str, rows: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
    """Write the log of a run of a study in memory."""
    k = next(k for k, o in enumerate(made.outcomes) if (o.label, o.seed) == (label, seed))
    place = cell_folder(made.folder, made.cells[k])
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text("".join(json.dumps({"event": "loss", "experience": 0, **row}) + "\n" for row in rows))


def computed(file: Path, out: Path) -> Path:
    """The folder of an experiment without a search, its cells computed one after another in this process."""
    experiment = read(file)
    out.mkdir()
    plan = []
    for label, raw in experiment.strategies.items():
        for seed in experiment.seeds:
            result = run_cell(resolve({**raw, "seed": seed, "phase": "evaluation"}), Options(out))
            plan.append({"cell": result["cell"], "phase": "evaluation", "label": label, "seed": seed, "trial": None})
    (out / "experiment.yaml").write_text(file.read_text())
    (out / "identity.json").write_text("{}")
    (out / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plan))
    return out


def blocks(page: Page | None) -> dict[str, Any]:
    """Figures and tables of a page by name."""
    assert page is not None
    found = [b for section in page.sections for b in section.blocks if isinstance(b, (Figure, Table))]
    named = {b.name: b for b in found}
    assert len(named) == len(found), "names are unique on a page"
    return named


def records(figure: Figure) -> list[dict[str, Any]]:
    """The numbers of a figure, a mapping a row."""
    heads, rows = figure.table
    return [dict(zip(heads, row, strict=True)) for row in rows]
