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
    from collections.abc import Callable
    from pathlib import Path

    import pandas

    from .data.source import ImageSource
    from .interop.avalanche_benchmarks import ImportedBenchmark
    from .interop.avalanche_plugins import AvalanchePlugin
    from .stream import Stream

__version__ = "0.1.0"
__all__ = ["avalanche_plugin", "from_avalanche", "images", "results", "run", "stream", "to_avalanche"]


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
    if isinstance(scenario, dict):
        # data in memory goes by its name
        named = {key: scenario[key].name for key in ("dataset", "benchmark") if hasattr(scenario.get(key), "identity")}
        result["scenario"] = {**scenario, **named}
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


def avalanche_plugin(name: str, **settings: Any) -> AvalanchePlugin:
    """A modifier as a plugin of an Avalanche strategy: `Replay(..., plugins=[clsuite.avalanche_plugin("fpf", steps_each=300)])`.

    Settings are the modifier's own, and `seed`, `head`, `experiences`, `total_steps`, `pretrained`, `logit_mask`: see
    `clsuite.interop.avalanche_plugins.avalanche_plugin`. Raises `UsageError` for what is not valid.
    """
    from .interop.avalanche_plugins import avalanche_plugin as make

    return make(name, **settings)


def to_avalanche(stream: Stream, transform: Callable[[Any], Any] | None = None, *, task_labels: bool | None = None) -> Any:
    """A stream of images as an Avalanche benchmark: `train_stream[i]` is experience i, `test_stream[j]` evaluation set j.

    Samples are float32 [channels, height, width] in 0..1, gathered from the resident data when they are asked for, with `transform` on top.
    Task labels are per sample where the stream has task ids or an experience mixes tasks, else 0; `task_labels` decides otherwise.
    """
    from .interop.avalanche_streams import to_avalanche as make

    return make(stream, transform, task_labels=task_labels)


def from_avalanche(benchmark: Any, *, round_pixels: bool = False) -> ImportedBenchmark:
    """An Avalanche benchmark of image classification as data: `scenario={"name": ..., "benchmark": clsuite.from_avalanche(b)}`.

    Pixels are taken before the benchmark's exchangeable transforms and kept as 8 bits (`round_pixels` allows others, rounded). `source`
    holds its distinct samples, for any other scenario.
    """
    from .interop.avalanche_benchmarks import from_avalanche as make

    return make(benchmark, round_pixels=round_pixels)
