"""clsuite: continual-learning experiments whose tables can be trusted.

    import clsuite

    result = clsuite.run("scenario.dataset=digits", strategy="replay", seed=0)
    result["metrics"]["final_accuracy"]

Importing the package imports nothing heavy; what a call needs is imported by the call.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

    from .data.source import ImageSource
    from .stream import Stream

__version__ = "0.1.0"
__all__ = ["images", "results", "run", "stream"]


class _Package(types.ModuleType):
    """Keeps `clsuite.stream` the function: importing the module of that name would put itself in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "stream" or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _specification(overrides: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    from .errors import UsageError
    from .experiment.overrides import parse_overrides
    from .experiment.spec import COMPONENTS

    result = parse_overrides(overrides, COMPONENTS)
    for key, value in values.items():
        if key in result:
            raise UsageError(f"'{key}' is given twice, as text and as an argument")
        result[key] = value
    scenario = result.get("scenario")
    if isinstance(scenario, dict) and hasattr(scenario.get("dataset"), "identity"):
        result["scenario"] = {**scenario, "dataset": scenario["dataset"].name}
    return result


def run(
    *overrides: str,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    rerun: bool = False,
    checkpoint_seconds: float = 30.0,
    weights: str | Path | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Run one cell and return its result: the document that `clsuite run --json` prints.

    Settings come as `"key=value"` text or as arguments (`scenario={"name": ..., "dataset": ...}`, `strategy="replay"`,
    `training={"epochs": 1}`, `seed=0`). With `out` the cell gets a folder there: a killed run goes on, a finished one
    is read back. `weights`: where to write the weights it ends with, as deployed. Raises `clsuite.errors.UsageError` for settings that are not valid.
    """
    from pathlib import Path

    from .experiment.cell import Options, run_cell
    from .experiment.spec import resolve

    cell = resolve(_specification(overrides, values), None if data_root is None else str(data_root))
    return run_cell(cell, Options(None if out is None else Path(out), checkpoint_seconds, rerun, None if weights is None else Path(weights)))


def stream(*overrides: str, data_root: str | Path | None = None, **values: Any) -> Stream:
    """The stream of a specification, without training anything: a table of what is seen when."""
    from .experiment.spec import resolve

    cell = resolve(_specification(overrides, values), None if data_root is None else str(data_root))
    return cell.scenario.stream(cell.spec["phase"], cell.seed)


def results(folder: str | Path) -> pandas.DataFrame:
    """All finished cells below an `out` folder as a data frame: one row a cell, settings by their path."""
    import pandas

    from .experiment.results import rows

    return pandas.DataFrame(rows(folder))


def images(x: Any, y: Any, x_test: Any, y_test: Any, name: str | None = None) -> ImageSource:
    """Data in memory as a data source: `scenario={"name": ..., "dataset": clsuite.images(x, y, x_test, y_test)}`.

    `x` uint8 or float in 0..1, [samples, height, width] with channels first or last; `y` int, 0..classes-1.
    """
    from .data.source import images as make

    return make(x, y, x_test, y_test, name)
