"""Exact state: a tagged JSON tree with tensors by reference.

Kept: None, bool, int, float (NaN and infinities too), str, list, tuple, dict (any plain keys), set, deque, tensors (shared
ones stay shared), arrays, generators, modules, optimizers, memories, experiences. Anything else fails, naming
the attribute. Tensors are copied *into* what the constructor made, never assigned, so that memory formats and
references survive.
"""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError
from ..memory import Memory
from ..stream import Experience
from .processes import put, whole

if TYPE_CHECKING:
    from .run import Run

MEMORY_FIELDS = ("offered", "ids", "labels", "experience", "priority", "columns", "rng")


class Encoder:
    """Encodes values into a JSON tree; `tensors` collects what the tree refers to."""

    def __init__(self, model: torch.nn.Module):
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []
        self._parameters = {id(p): name for name, p in model.named_parameters()}

    def _tensor(self, value: torch.Tensor) -> str:
        if id(value) not in self._names:
            name = f"tensor {len(self.tensors)}"
            self._names[id(value)] = name
            self._alive.append(value)
            self.tensors[name] = whole(value.detach()).contiguous().clone()
        return self._names[id(value)]

    def encode(self, value: Any, where: str) -> Any:
        """The JSON tree of a value; raises `UsageError` naming `where` for a kind of value that cannot be kept."""
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, list):
            return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, dict):
            return {"dict": [[self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, (set, frozenset)):
            return {type(value).__name__: [self.encode(v, where) for v in sorted(value, key=repr)]}
        if isinstance(value, deque):
            return {"deque": [self.encode(v, where) for v in value], "maxlen": value.maxlen}
        if isinstance(value, torch.Tensor):
            return self._encode_tensor(value, where)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return {"array": self._tensor(torch.from_numpy(np.array(value)))}
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return {"scalar": self.encode(value.item(), where), "dtype": value.dtype.str}
        if isinstance(value, np.random.Generator):
            return {"generator": self.encode(value.bit_generator.state, where)}
        if isinstance(value, torch.Generator):
            return {"torch_generator": self._tensor(value.get_state()), "device": str(value.device)}
        if isinstance(value, random.Random):
            return {"random": self.encode(value.getstate(), where)}
        if isinstance(value, Experience):
            return {"experience": value.index}
        if isinstance(value, Memory):
            return {"memory": self.encode({name: getattr(value, name) for name in MEMORY_FIELDS}, where)}
        if isinstance(value, torch.nn.Module):
            return self._encode_module(value)
        if isinstance(value, torch.optim.Optimizer):
            return {"optimizer": self.encode(value.state_dict(), where)}
        raise UsageError(
            f"{where} is a {type(value).__name__}, which a checkpoint cannot keep: use tensors, arrays, generators, modules, "
            "optimizers or plain values, or name it in `transient` and make it again in setup"
        )

    def _encode_tensor(self, value: torch.Tensor, where: str) -> Any:
        if id(value) in self._parameters:
            return {"parameter": self._parameters[id(value)]}
        if value.requires_grad and not value.is_leaf:
            raise UsageError(f"{where} is a tensor with its graph, which a checkpoint cannot keep: detach it")
        return {"tensor": self._tensor(value), "requires_grad": value.requires_grad}

    def _encode_module(self, module: torch.nn.Module) -> Any:
        return {
            "module": {name: self._tensor(t) for name, t in module.state_dict(keep_vars=True).items()},
            "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
            "training": [name for name, m in module.named_modules() if m.training],
        }


class Decoder:
    """Gives values back from a JSON tree; `into` is what the constructor or `setup` made in that place."""

    def __init__(self, tensors: dict[str, torch.Tensor], run: Run):
        self._tensors = tensors
        self._run = run
        self._restored: dict[str, torch.Tensor] = {}

    def decode(self, tree: Any, into: Any = None) -> Any:
        if isinstance(tree, list):
            old = into if isinstance(into, list) and len(into) == len(tree) else [None] * len(tree)
            return [self.decode(v, o) for v, o in zip(tree, old, strict=True)]
        if not isinstance(tree, dict):
            return tree
        kind = next(iter(tree))
        return getattr(self, f"_{kind}")(tree, into)

    def _float(self, tree: Any, into: Any) -> float:
        return float(tree["float"])

    def _tuple(self, tree: Any, into: Any) -> tuple[Any, ...]:
        old = into if isinstance(into, tuple) and len(into) == len(tree["tuple"]) else [None] * len(tree["tuple"])
        return tuple(self.decode(v, o) for v, o in zip(tree["tuple"], old, strict=True))

    def _dict(self, tree: Any, into: Any) -> dict[Any, Any]:
        old = into if isinstance(into, dict) else {}
        pairs = [(self.decode(k), v) for k, v in tree["dict"]]
        return {k: self.decode(v, old.get(k)) for k, v in pairs}

    def _set(self, tree: Any, into: Any) -> set[Any]:
        return {self.decode(v) for v in tree["set"]}

    def _frozenset(self, tree: Any, into: Any) -> frozenset[Any]:
        return frozenset(self.decode(v) for v in tree["frozenset"])

    def _deque(self, tree: Any, into: Any) -> deque[Any]:
        return deque((self.decode(v) for v in tree["deque"]), tree["maxlen"])

    def _tensor(self, tree: Any, into: Any) -> torch.Tensor:
        name = tree["tensor"]
        if name in self._restored:
            return self._restored[name]
        saved = self._tensors[name]
        if isinstance(into, torch.Tensor) and into.shape == saved.shape and into.dtype == saved.dtype and id(into) not in self._run.parameter_ids:
            with torch.no_grad():
                put(into, saved)
            value = into
        else:
            value = saved.clone().to(self._run.device)
        if value.is_leaf:
            value.requires_grad_(tree["requires_grad"])
        self._restored[name] = value
        return value

    def _parameter(self, tree: Any, into: Any) -> torch.Tensor:
        return self._run.model.get_parameter(tree["parameter"])

    def _array(self, tree: Any, into: Any) -> np.ndarray:
        return self._tensors[tree["array"]].numpy().copy()

    def _scalar(self, tree: Any, into: Any) -> Any:
        return np.dtype(tree["dtype"]).type(self.decode(tree["scalar"]))

    def _generator(self, tree: Any, into: Any) -> np.random.Generator:
        state = self.decode(tree["generator"])
        rng = into if isinstance(into, np.random.Generator) else np.random.Generator(getattr(np.random, state["bit_generator"])())
        rng.bit_generator.state = state
        return rng

    def _torch_generator(self, tree: Any, into: Any) -> torch.Generator:
        rng = into if isinstance(into, torch.Generator) else torch.Generator(tree["device"])
        rng.set_state(self._tensors[tree["torch_generator"]].cpu())
        return rng

    def _random(self, tree: Any, into: Any) -> random.Random:
        rng = into if isinstance(into, random.Random) else random.Random()
        rng.setstate(self.decode(tree["random"]))
        return rng

    def _experience(self, tree: Any, into: Any) -> Experience:
        return self._run.stream.experiences[tree["experience"]]

    def _memory(self, tree: Any, into: Any) -> Memory:
        if not isinstance(into, Memory):
            raise UsageError("a memory made after `setup` cannot be restored: make it in setup")
        for name, value in self.decode(tree["memory"], {name: getattr(into, name) for name in MEMORY_FIELDS}).items():
            setattr(into, name, value)
        return into

    def _module(self, tree: Any, into: Any) -> torch.nn.Module:
        module = into if isinstance(into, torch.nn.Module) else copy.deepcopy(self._run.model)
        live = module.state_dict(keep_vars=True)
        if set(live) != set(tree["module"]):
            raise UsageError(f"a module made after `setup` ({len(tree['module'])} tensors) is not shaped like the model: make it in setup")
        with torch.no_grad():
            for name, tensor in tree["module"].items():
                put(live[name], self._tensors[tensor])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in tree["frozen"])
        for name, child in module.named_modules():
            child.training = name in tree["training"]
        return module

    def _optimizer(self, tree: Any, into: Any) -> torch.optim.Optimizer:
        if not isinstance(into, torch.optim.Optimizer):
            raise UsageError("an optimizer made after `setup` cannot be restored: make it in setup, or keep it within a hook")
        into.load_state_dict(self.decode(tree["optimizer"]))
        for parameter, kept in into.state.items():
            for name, value in kept.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    kept[name] = put(torch.empty_like(parameter), value)  # in the memory format of its parameter
        return into
