"""Where a run stands and what it has cost: plain numbers, all part of its state."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Cost:
    """What was computed. Passes are counted per sample through the whole network; `feature_passes` through the head only."""

    gradient_steps: int = 0
    forward_passes: int = 0
    backward_passes: int = 0
    feature_passes: int = 0


@dataclass
class Position:
    """Where a run stands: everything before `stage` of `experience` is done, and `step` batches of it."""

    experience: int = 0
    stage: str = "begin"
    step: int = 0


@dataclass
class Progress:
    """Numbers a run gathers on its way, all part of its state."""

    position: Position = field(default_factory=Position)
    step: int = 0
    """Updates of the main optimizer so far."""
    experience_step: int = 0
    """The same, since the start of this experience."""
