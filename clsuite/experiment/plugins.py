"""Strategy files that an experiment names (`plugins: [./mine.py]`): their classes go by their names in its `strategies`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from ..errors import UsageError


def plugin_classes(given: Any, beside: Path) -> dict[str, str]:
    """By class name the reference `FILE:Class`; files are looked for beside the experiment file, then where the command runs.

    Nothing is imported: the names are read from the source. Raises `UsageError` for what is no list of readable Python files.
    """
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise UsageError(f"plugins = {given!r} is not valid: expected a list of Python files")
    found: dict[str, str] = {}
    for item in given:
        file = next((path for path in (beside / item, Path(item)) if path.is_file()), None)
        if file is None:
            raise UsageError(f"plugins: file '{item}' does not exist (looked in {beside.resolve()} and {Path.cwd()})")
        try:
            tree = ast.parse(file.read_text())
        except (OSError, ValueError, SyntaxError) as error:
            raise UsageError(f"plugins: file '{item}' is not valid Python: {str(error).splitlines()[0]}") from error
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                if node.name in found:
                    raise UsageError(f"plugins: class '{node.name}' is in two files")
                found[node.name] = f"{file}:{node.name}"
    return found


def with_references(entry: dict[str, Any], classes: dict[str, str]) -> dict[str, Any]:
    """An entry of `strategies` with class names replaced by their references, in its name, its modifiers and the settings of these."""

    def reference(name: Any) -> Any:
        return "+".join(classes.get(part, part) for part in name.split("+")) if isinstance(name, str) else name

    replaced = {classes.get(key, key): value for key, value in entry.items()}
    replaced["name"] = reference(entry.get("name"))
    if isinstance(entry.get("modifiers"), list):
        replaced["modifiers"] = [{**m, "name": reference(m.get("name"))} if isinstance(m, dict) else reference(m) for m in entry["modifiers"]]
    return replaced
