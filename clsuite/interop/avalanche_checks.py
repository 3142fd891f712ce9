"""What cannot be run with a strategy of Avalanche, said in one line before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..training.run import Run
from . import avalanche_tables as tables

if TYPE_CHECKING:
    from .avalanche_strategy import AvalancheStrategy

ELSEWHERE: dict[str, Any] = {
    "clip_norm": None,
    "decayed": "all",
    "border_start_from": "final",
    "border_rewarm": None,
    "border_peak_scale": 1.0,
    "logit_mask": "none",
    "probe_every": None,
    "precision": "float32",
    "compile": False,
}
"""Settings of training that act in clsuite's loop alone, with the only value that is possible here."""


def refuse(part: AvalancheStrategy) -> None:
    """Raise `UsageError` for what the run asks and Avalanche's loop, or this strategy of it, cannot do."""
    run = part.run
    if len(run.parts) > 1:
        raise UsageError(f"strategy '{part.name}' trains by Avalanche's own loop: '{run.parts[1].name}' cannot act in it")
    for name, valid in ELSEWHERE.items():
        if getattr(run.training, name) != valid:
            shown = "null" if valid is None else valid
            raise UsageError(f"training.{name} = {getattr(run.training, name)!r} cannot act in Avalanche's loop, which '{part.name}' uses (valid: {shown})")
    if not run.schedule.is_constant:
        raise UsageError(f"training.schedule = '{run.schedule.name}' cannot act in Avalanche's loop, which '{part.name}' uses (valid: constant)")
    for spec in part.row["settings"]:
        if spec.get("required") and getattr(part, spec["name"]) is None:
            raise UsageError(f"strategy.{spec['name']} must be given: Avalanche has no default for it")
    _check_stream(part)
    if part.kind in _SIZES:
        _SIZES[part.kind](part.name, run, part.settings())


def _check_stream(part: AvalancheStrategy) -> None:
    stream = part.run.stream
    if part.kind in tables.NEW_CLASSES:
        seen: set[int] = set()
        for e in stream.experiences:
            if seen & set(e.classes):
                raise UsageError(f"strategy '{part.name}' needs new classes in every experience, but scenario '{stream.scenario}' brings classes back")
            seen |= set(e.classes)
    if part.kind in tables.MULTI_TASK and any(e.tasks != (e.index,) for e in stream.experiences):
        raise UsageError(f"strategy '{part.name}' needs one task in every experience, but scenario '{stream.scenario}' mixes them")


# -- sizes that Avalanche fails with, or waits for ever with ----------------------------------------------------------


def _ewc(name: str, run: Run, settings: dict[str, Any]) -> None:
    if settings["mode"] == "online" and settings["decay_factor"] is None:
        raise UsageError("strategy.mode = 'online' needs strategy.decay_factor (for example 1.0)")


def _packnet(name: str, run: Run, settings: dict[str, Any]) -> None:
    epochs = int(run.training.epochs or 1)
    if settings["post_prune_epochs"] >= epochs:
        raise UsageError(f"strategy.post_prune_epochs = {settings['post_prune_epochs']} must be less than training.epochs = {epochs}")


def _agem(name: str, run: Run, settings: dict[str, Any]) -> None:
    if settings["sample_size"] < len(run.stream):
        raise UsageError(f"strategy.sample_size = {settings['sample_size']} is less than the {len(run.stream)} experiences it is divided over")


def _gss(name: str, run: Run, settings: dict[str, Any]) -> None:
    first, wanted = len(run.stream.experiences[0]), run.batch_size + 32  # it compares a batch with as many memories, and Avalanche replays 32
    if min(settings["mem_size"], first) <= wanted:
        raise UsageError(
            f"strategy.mem_size = {settings['mem_size']} with {first} samples in the first experience is too few for '{name}': "
            f"both must be more than training.batch_size + 32 = {wanted}"
        )


def _rwalk(name: str, run: Run, settings: dict[str, Any]) -> None:
    steps = int(run.training.epochs or 1) * -(-len(run.stream.experiences[0]) // run.batch_size)
    if settings["delta_t"] > steps:  # all scores are then zero, and it divides by the largest
        raise UsageError(f"strategy.delta_t = {settings['delta_t']} is more than the {steps} steps of the first experience")


def _feature_replay(name: str, run: Run, settings: dict[str, Any]) -> None:
    there = min(settings["mem_size"], len(run.stream.experiences[0]))
    _enough("strategy.batch_size_mem", settings["batch_size_mem"], there, "the first experience", name)


def _er_aml(name: str, run: Run, settings: dict[str, Any]) -> None:
    stream = run.stream
    fewest = min(int(np.unique(stream.labels_of(stream.ids(e.segments)), return_counts=True)[1].min()) for e in stream.experiences)
    _enough("training.batch_size", run.batch_size, min(settings["mem_size"] // stream.classes, fewest), "a class", name)


def _enough(setting: str, wanted: int, there: int, of: str, name: str) -> None:
    if wanted > there:  # it waits for a full batch of memories
        raise UsageError(f"{setting} = {wanted} is more than the {there} samples of {of} that the memory of '{name}' can hold")


_SIZES = {
    "AGEM": _agem,
    "ER_AML": _er_aml,
    "EWC": _ewc,
    "FeatureReplay": _feature_replay,
    "GSS_greedy": _gss,
    "PackNet": _packnet,
    "RWalkPlugin": _rwalk,
}
