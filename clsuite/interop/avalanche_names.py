"""Benchmarks by name: Avalanche's classic ones, a function in a file of one's own, or one that was imported in this process.

Data is looked for in the suite's data roots, in the layouts Avalanche reads; MNIST and Fashion-MNIST in every layout the suite reads.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.cache import cache_root
from ..data.named import fashion_mnist, mnist
from ..data.places import search_roots
from ..data.source import GENERIC_DEFAULTS, ImageSource, load_source
from ..errors import MissingData, UsageError, nearest, unknown
from . import one_line, part, quiet
from .avalanche_benchmarks import PREFIX, ImportedBenchmark, from_avalanche, imported
from .surroundings import one_thread, patience, seeded, silent, tidied

EMBEDDED = "SplitDigits"
"""The benchmark that needs no data: scikit-learn's digits, divided by Avalanche's `nc_benchmark`."""
SETS = {EMBEDDED: "digits", "SplitMNIST": "mnist", "PermutedMNIST": "mnist", "RotatedMNIST": "mnist", "SplitFMNIST": "fashion_mnist"}
"""Benchmarks over sets the suite knows: it hands Avalanche the data, and suggests training settings."""
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
"""Where torchvision looks for the four IDX files of a set: `ROOT/<folder>/raw/`."""
Make = Callable[..., Any]


def find(name: str, given: Mapping[str, Any], arguments: Mapping[str, Any], data_root: str | None, round_pixels: bool) -> ImportedBenchmark:
    """The benchmark of a name, made once a process with the arguments it takes.

    `name`: a classic benchmark of Avalanche (`SplitMNIST`), `FILE.py:function`, `SplitDigits`, or the name of an `ImportedBenchmark`. `given`
    are settings that become arguments where they are not None; `seed` and the data root only where the benchmark takes them. Raises
    `UsageError` in one line for an unknown name, arguments it does not take, and data that is nowhere.
    """
    if name.startswith(PREFIX):
        used = [k for k, v in {**given, "arguments": arguments or None}.items() if v is not None and k != "seed"]
        if used:
            raise UsageError(f"scenario.{used[0]} cannot be given with an imported benchmark: it is made already")
        return imported(name)
    key = _text([dict(given), dict(arguments)])
    if key is None:
        raise UsageError(f"scenario.arguments = {dict(arguments)!r} is not valid: expected plain values and text as keys; give others in a file of your own")
    roots = tuple(str(root) for root in search_roots(data_root))
    return _made(name, key, data_root, roots, round_pixels, _modified(name))


def _text(values: Any) -> str | None:
    """Plain values as JSON; None for what JSON does not hold as it is."""
    try:
        text = json.dumps(values, sort_keys=True)
    except (TypeError, ValueError):
        return None
    return text if json.loads(text) == values else None


def _modified(name: str) -> int:
    file = Path(name.rpartition(":")[0])
    return file.stat().st_mtime_ns if ".py:" in name and file.is_file() else 0


@functools.lru_cache(maxsize=8)
def _made(name: str, key: str, data_root: str | None, roots: tuple[str, ...], round_pixels: bool, modified: int) -> ImportedBenchmark:
    given, arguments = json.loads(key)
    with seeded(given.get("seed") or 0), one_thread():
        benchmark = _from_file(name, given, arguments) if ".py:" in name else _classic(name, given, arguments, data_root, roots)
        return from_avalanche(benchmark, round_pixels=round_pixels, title=name, defaults=_suggested(name))


def _suggested(name: str) -> Mapping[str, Any]:
    """Training settings that fit a benchmark's data, without looking for the data."""
    known = {"mnist": mnist.defaults, "fashion_mnist": fashion_mnist.defaults}
    return load_source(SETS[name]).defaults if name == EMBEDDED else known.get(SETS.get(name, ""), GENERIC_DEFAULTS)


# -- what is called ------------------------------------------------------------------------------------------


def _classic(name: str, given: dict[str, Any], arguments: dict[str, Any], data_root: str | None, roots: tuple[str, ...]) -> Any:
    make = split_digits if name == EMBEDDED else _classics().get(name)
    if make is None:
        raise unknown("benchmark", name, [*_classics(), EMBEDDED, "FILE.py:function"])
    values = _arguments(name, make, given, arguments)
    if "dataset_root" not in inspect.signature(make).parameters or "dataset_root" in values:
        with silent(), patience():
            return _called(name, make, values)
    if name in SETS:
        with silent():
            return _called(name, make, {**values, "dataset_root": _as_torchvision(load_source(SETS[name], data_root), FOLDERS[SETS[name]])})
    return _from_roots(name, make, values, roots)


def _classics() -> dict[str, Make]:
    """Avalanche's functions that make a benchmark of data, by name (its benchmarks of finished models are classes)."""
    module = part("benchmarks.classic")
    found = {name: getattr(module, name) for name in dir(module) if name[0].isupper()}
    return {name: make for name, make in found.items() if inspect.isfunction(make) and make.__module__.startswith(module.__name__)}


def split_digits(n_experiences: int = 5, *, return_task_id: bool = False, shuffle: bool = True, seed: int | None = None) -> Any:
    """Scikit-learn's digits by class, with the arguments of Avalanche's own split benchmarks."""
    import torch

    source = load_source(SETS[EMBEDDED])
    splits: tuple[Any, ...] = ("train", "test")
    train, test = (torch.utils.data.TensorDataset(torch.tensor(source.images(s)), torch.tensor(source.labels(s))) for s in splits)
    return part("benchmarks", "nc_benchmark")(train, test, n_experiences, return_task_id, shuffle=shuffle, seed=seed)


def _from_file(name: str, given: dict[str, Any], arguments: dict[str, Any]) -> Any:
    path, _, attribute = name.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"benchmark file '{path}' does not exist (looked in {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(f"clsuite_benchmark_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"benchmark file '{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with contextlib.redirect_stdout(sys.stderr), patience():  # standard output may be one JSON document
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's code
            raise UsageError(f"benchmark file '{path}' cannot be imported: {one_line(error)}") from error
        make = getattr(module, attribute, None)
        if not callable(make):
            own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == spec.name]
            raise unknown(f"function of {file.name}", attribute, own)
        return _called(name, make, _arguments(name, make, given, arguments))


def _arguments(name: str, make: Make, given: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """What a benchmark is called with; raises `UsageError` for what it does not take, or needs and does not get."""
    parameters = inspect.signature(make).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    values = dict(arguments)
    for key, value in given.items():
        if value is None or (key == "seed" and key not in takes):
            continue
        if key in arguments and key != "seed":
            raise UsageError(f"'{key}' is given twice, as scenario.{key} and in scenario.arguments")
        values.setdefault(key, value)
    for key in values:
        if key not in takes and not free:
            where = f"scenario.{key}" if key in given else f"scenario.arguments.{key}"
            raise UsageError(f"{where} = {values[key]!r}: benchmark '{name}' takes no '{key}'{nearest(key, takes)} (it takes: {', '.join(takes) or 'nothing'})")
    needed = [n for n in takes if parameters[n].default is inspect.Parameter.empty and n not in values and n != "dataset_root"]
    if needed:
        how = f"scenario.{needed[0]}" if needed[0] in given else f"scenario.arguments={{{needed[0]}: ...}}"
        raise UsageError(f"benchmark '{name}' needs '{needed[0]}': give {how}")
    return values


def _called(name: str, make: Make, values: dict[str, Any]) -> Any:
    try:
        with quiet():
            return make(**values)
    except UsageError:
        raise
    except Exception as error:  # another library's code, or the user's
        raise UsageError(f"benchmark '{name}' cannot be made: {one_line(error)}") from error


# -- where its data is ---------------------------------------------------------------------------------------


def _from_roots(name: str, make: Make, values: dict[str, Any], roots: tuple[str, ...]) -> Any:
    """The benchmark over data in the first root that has it, then in Avalanche's own folder, then from the network."""
    own = str(part("benchmarks.datasets", "default_dataset_location")("any").parent)
    usual = inspect.signature(make).parameters["dataset_root"].default is not inspect.Parameter.empty
    tries: list[tuple[str | None, bool]] = [(root, False) for root in roots if Path(root).is_dir()]
    tries += [(None, False)] if usual else []
    offline = os.environ.get("CLSUITE_OFFLINE") == "1"
    tries += [] if offline else [(roots[0], True)]
    reason: Exception | None = None
    for root, network in tries:
        try:
            with silent(), quiet(), patience(network), tidied(root or own):
                return make(**values, **({} if root is None else {"dataset_root": root}))
        except (ValueError, TypeError, AssertionError, KeyError) as error:  # not about data: the same everywhere
            raise UsageError(f"benchmark '{name}' cannot be made: {one_line(error)}") from error
        except Exception as error:
            reason = error
    looked = ", ".join(str(root) for root, network in tries if root is not None and not network)
    why = "downloads are off (CLSUITE_OFFLINE=1)" if offline else f"it cannot be downloaded: {one_line(reason or Exception('no folder'))}"
    raise MissingData(
        f"benchmark '{name}': its data is not there in a layout that Avalanche reads (looked in {looked or 'no folder'}); {why}; "
        f"give --data-root or scenario.arguments={{dataset_root: FOLDER}}"
    )


def _as_torchvision(source: ImageSource, folder: str) -> str:
    """A root in which torchvision finds the four IDX files of a source, written to the cache once."""
    root = cache_root() / "idx" / source.identity[:12]
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    splits: tuple[tuple[Any, str], ...] = (("train", "train"), ("test", "t10k"))
    for split, stem in splits:
        for kind, array in (("images-idx3", source.images(split)[:, 0]), ("labels-idx1", source.labels(split).astype("u1"))):
            file = raw / f"{stem}-{kind}-ubyte"
            header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            if file.is_file() and file.stat().st_size == len(header) + array.size:
                continue
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            temporary.write_bytes(header + array.tobytes())
            os.replace(temporary, file)
    return str(root)
