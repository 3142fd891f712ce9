"""Importing this module makes the first cell of a process as quick as its second: what cells import, and checks of settings made once.

For the server that workers are forked from. Nothing here makes a tensor or a thread; plug-ins are left to the workers.
"""

from __future__ import annotations

import importlib

import safetensors.torch  # noqa: F401
import torch._dynamo  # noqa: F401

from .. import registry
from ..settings import Configurable, prepare
from . import cell  # noqa: F401
from .spec import resolve


def import_for(component: Configurable) -> None:
    """Import what a model or a part names in `imports`: seconds, which are left alone where no cell needs them."""
    for name in getattr(component, "imports", ()):
        importlib.import_module(name)


for kind in ("scenarios", "strategies", "models", "schedules"):
    for name, entry in registry.catalogue(kind).items():
        if entry.origin == "native":
            component = registry.load(kind, name)
            if isinstance(component, type) and issubclass(component, Configurable):
                prepare(component)
resolve({})
