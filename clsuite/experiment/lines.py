"""Which line of a file a mistake stands in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from ..errors import UsageError

WORDS = re.compile(r"'([^']+)'|\b((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Za-z_]\w*(?= =))")
"""What a message may quote of a file: anything in quotes, dotted settings, and names before an equals sign."""
SHOWN = 60


@dataclass(frozen=True)
class Place:
    """A key or a value of the file: its path of keys, the text of its value when that is a scalar, and its line."""

    path: tuple[str, ...]
    value: str | None
    line: int


@dataclass
class Lines:
    """The keys of a YAML file by line, and what the command line put over them."""

    places: list[Place] = field(default_factory=list)
    overrides: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, overrides: list[str]) -> Lines:
        """Of a text that is valid YAML, and of `key=value` items."""
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        given = {item.partition("=")[0]: item for item in overrides}
        return cls(list(_places(node, ())) if node is not None else [], given)

    def locate(self, message: str, within: str | None = None) -> str:
        """`line 7: ` or `'training.epochs=0': ` for the place the message speaks of, or nothing.

        The words the message quotes are looked for as keys and as values; `within` is the label of the strategy whose entry comes first.
        """
        places = sorted(self.places, key=lambda p: not self._entry(p, within)) if within is not None else self.places
        for quoted, plain in WORDS.findall(message):
            word = quoted or plain
            item = next((item for key, item in self.overrides.items() if word == key or key.endswith("." + word)), None)
            if item is not None:
                return f"'{item}': " if item not in message else ""
            *_, last = word.split(".")
            for place in places:
                if (place.path and place.path[-1] in (last, word)) or place.value == word:
                    return f"line {place.line}: "
        return ""

    def _entry(self, place: Place, label: str | None) -> bool:
        """Whether a place belongs to the entry of a strategy."""
        if place.path[:1] != ("strategies",) or len(place.path) < 2:
            return False
        own = [p for p in self.places if p.path[:2] == place.path[:2]]
        names = {p.path[2]: p.value for p in own if len(p.path) == 3}
        return label == names.get("label", names.get("name", own[0].value))


def located(error: UsageError, file: str, lines: Lines, within: str | None = None) -> UsageError:
    """The error with the file and the line before it."""
    message = str(error).removeprefix(f"{file}: ")
    place = "" if re.match(r"line \d+: ", message) else lines.locate(message, within)
    shown = within if within is None or len(within) <= SHOWN else within[:SHOWN] + "..."
    who = f"{shown}: " if within is not None and not message.startswith(f"{within}: ") else ""
    return type(error)(f"{file}: {place}{who}{message}")


def _places(node: yaml.Node, path: tuple[str, ...]) -> Iterator[Place]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            own = (*path, str(key.value))
            yield Place(own, value.value if isinstance(value, yaml.ScalarNode) else None, key.start_mark.line + 1)
            if not isinstance(value, yaml.ScalarNode):
                yield from _places(value, own)
    elif isinstance(node, yaml.SequenceNode):
        for k, value in enumerate(node.value):
            own = (*path, str(k))
            if isinstance(value, yaml.ScalarNode):
                yield Place(own, value.value, value.start_mark.line + 1)
            else:
                yield from _places(value, own)
