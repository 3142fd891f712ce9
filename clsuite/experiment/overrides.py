"""From what a user writes (`key=value`, YAML) to nested plain values, strictly and safely."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

from ..errors import UsageError


class Loader(yaml.SafeLoader):
    """The safe loader, which also refuses duplicate keys and aliases, reads 1e-3 as a number, and off, no, on, yes as text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise UsageError(f"line {key_node.start_mark.line + 1}: key '{key}' is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise UsageError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Plain values from YAML; raises `UsageError` in one line that names the place."""
    try:
        return yaml.load(text, Loader=Loader)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{where}: brackets are nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark is not None else ""
        raise UsageError(f"{where}:{line} {getattr(error, 'problem', None) or 'not valid YAML'}") from error


def parse_overrides(items: Iterable[str], components: Iterable[str]) -> dict[str, Any]:
    """Nested values from `a.b=value` items. For a component, `strategy=replay` is short for `strategy.name=replay`."""
    result: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"'{item}' is not key=value")
        path = key.split(".")
        if not all(path):
            raise UsageError(f"'{item}': the key has an empty part")
        if "${" in text:
            raise UsageError(f"'{item}': interpolation (${{...}}) is not supported")
        value = parse_yaml(text, f"'{item}'") if not _is_reference(path, text, components) else text
        if len(path) == 1 and key in components and not isinstance(value, dict):
            path = [key, "name"]
        insert(result, path, value, item)
    return result


def _is_reference(path: list[str], text: str, components: Iterable[str]) -> bool:
    """Names of components are text as they stand, so that a path with blanks or colons needs no quotes."""
    return path[-1] == "name" or (len(path) == 1 and path[0] in components and not text.lstrip().startswith("{"))


def insert(result: dict[str, Any], path: list[str], value: Any, item: str) -> None:
    """Set a nested value; a key given twice, or both as a value and as a group, is an error."""
    here = result
    for name in path[:-1]:
        here = here.setdefault(name, {})
        if not isinstance(here, dict):
            raise UsageError(f"'{item}': '{name}' was given a value before, so it has no part '{path[-1]}'")
    if path[-1] in here:
        raise UsageError(f"'{item}': the key '{'.'.join(path)}' is given twice")
    here[path[-1]] = value
