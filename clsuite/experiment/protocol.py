"""The protocols: which data settings are tuned on, and which they are evaluated on.

two-phase           tuned on one part of the data, evaluated on another that shares no sample with it
first-experiences   tuned on the first experiences of the stream, evaluated from scratch on the others
conventional        tuned on the stream that is reported: leaky, as most published tables are
fixed               nothing is tuned
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError, nearest, unknown
from ..scenario import Split
from ..training.metrics import KNOWN, REFERRED
from .tuning import Tuning

HALVES = ("split", "split_seed", "halves", "tuning_dataset", "swap")
SPLIT_KEYS = {"two-phase": HALVES, "first-experiences": ("first", "split_seed"), "conventional": HALVES, "fixed": (*HALVES, "held_out")}
PROTOCOLS = tuple(SPLIT_KEYS)
SEPARATE = ("two-phase", "first-experiences")


@dataclass(frozen=True)
class Protocol:
    """A protocol by name, the settings of its split as they were given, and how it tunes."""

    name: str = "fixed"
    split: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def separate(self) -> bool:
        """Whether tuning and evaluation must share no sample."""
        return self.name in SEPARATE

    @property
    def tunes(self) -> bool:
        return self.name != "fixed"

    @property
    def leaky(self) -> bool:
        """Whether settings are chosen on the stream that is reported."""
        return self.name == "conventional"

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases whose scores can be compared."""
        if not self.tunes:
            return ("evaluation",)
        return ("tuning", "evaluation", *(("conventional",) if self.tuning.optimism else ()))


def protocol(value: Any) -> Protocol:
    """Parse `protocol:`; raises `UsageError`."""
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise UsageError(f"protocol = {value!r} is not valid: expected a name, or {{name: two-phase, settings}}")
    name = given.get("name", PROTOCOLS[0])
    if name not in PROTOCOLS:
        raise UsageError(f"protocol = '{name}' is not valid: expected one of {', '.join(PROTOCOLS)}{nearest(str(name), PROTOCOLS)}")
    searching = [] if name == "fixed" else [k for k in Tuning.declared() if k != ("optimism" if name == "conventional" else "validation")]
    known = (*SPLIT_KEYS[name], *searching)
    for key in given:
        if key != "name" and key not in known:
            raise UsageError(f"unknown setting 'protocol.{key}'{nearest(str(key), known)} (valid with {name}: {', '.join(known)})")
    tuning = Tuning(**Tuning.validated({k: v for k, v in given.items() if k in Tuning.declared()}, "protocol"))
    own = [metric for metric in KNOWN if metric not in REFERRED]
    if tuning.select_on not in own:
        raise UsageError(f"protocol.select_on: {unknown('metric', tuning.select_on, own)}")
    split = {k: v for k, v in given.items() if k in Split.declared()}
    Split.validated(split, "protocol")
    if name == "two-phase" and split.get("split") in ("none", "experiences"):
        raise UsageError(f"protocol.split = '{split['split']}' has no data to tune on; valid with two-phase: classes, samples, datasets")
    if name == "first-experiences":
        split = {**split, "split": "experiences"}
    return Protocol(name, split, tuning)
