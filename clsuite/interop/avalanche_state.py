"""An Avalanche strategy as bytes, and back.

Avalanche's objects know no other form than a pickle, so this is one: whoever writes these bytes decides what runs when they are read. clsuite reads
them from the checkpoint of the same cell alone, which is as trusted as the experiment's own files.

What the run holds anyway (the stream, its index arrays, its labels) is not in the bytes but borrowed when they are read. An iterator that has not begun is made
anew when it is read; one that was left in the middle has ended.
"""

from __future__ import annotations

import contextvars
import inspect
import io
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..stream import Stream
from . import avalanche_streams

_MAKERS: tuple[Any, ...] = (avalanche_streams._experience_class, avalanche_streams._labels_class)
"""What makes classes that derive from Avalanche's, once."""
_lender: contextvars.ContextVar[Lender] = contextvars.ContextVar("lender")


class Lender:
    """Objects of the run that an Avalanche strategy refers to, by key; its stream stands for every copy of it."""

    def __init__(self, stream: Stream, objects: Mapping[str, Any]):
        self.stream = stream
        self.objects = {"stream": stream, "outputs": stream.outputs("train"), **objects}
        self._keys: dict[int, tuple[Any, ...]] = {id(value): (key,) for key, value in self.objects.items()}
        for i, experience in enumerate(stream.experiences):
            for k, segment in enumerate(experience.segments):
                if isinstance(segment.content, np.ndarray):
                    self._keys[id(segment.content)] = ("segment", i, k)

    def key(self, value: Any) -> tuple[Any, ...] | None:
        """The key of what is borrowed; None for everything else."""
        if isinstance(value, Stream):
            return ("stream",)
        found = self._keys.get(id(value))
        if found is None and isinstance(value, np.ndarray):
            outputs = self.objects["outputs"]
            if value.shape == outputs.shape and value.dtype == outputs.dtype and np.array_equal(value, outputs):
                return ("outputs",)
        return found

    def get(self, key: tuple[Any, ...]) -> Any:
        if key[0] == "segment":
            return self.stream.experiences[key[1]].segments[key[2]].content
        return self.objects[key[0]]


def _borrowed(*key: Any) -> Any:
    return _lender.get().get(key)


def _begun(function: Any, arguments: dict[str, Any]) -> Iterator[Any]:
    return function(**arguments)


def _method(owner: Any, name: str, arguments: dict[str, Any]) -> Iterator[Any]:
    return getattr(owner, name)(**arguments)


def _ended() -> Iterator[Any]:
    return iter(())


def _unwrapped(found: Any) -> Any:
    return inspect.unwrap(found)


def _function(written: bytes) -> Any:
    import dill

    return dill.loads(written)


def _reduced(value: Any) -> Any:
    key = _lender.get().key(value)
    if key is not None:
        return _borrowed, key
    if isinstance(value, _BaseDataLoaderIter):
        return _ended, ()
    if isinstance(value, types.GeneratorType):
        return _generator(value)
    if isinstance(value, type):
        return _class_reduced(value)
    if isinstance(value, types.FunctionType) and "<" in value.__qualname__:  # without a name that it could be found by
        import dill

        return _function, (dill.dumps(value, recurse=True),)
    return NotImplemented


def _class_reduced(value: type) -> Any:
    """A class that its own name does not lead to: one that a deprecation hides, or that is made when it is first needed."""
    found = getattr(sys.modules.get(value.__module__), value.__name__, None)
    if found is not value and inspect.unwrap(found) is value if callable(found) else False:
        return _unwrapped, (found,)
    maker = next((make for make in _MAKERS if value.__module__ == make.__module__ and make() is value), None)
    return NotImplemented if maker is None else (maker, ())


def _generator(value: types.GeneratorType[Any, Any, Any]) -> Any:
    """A generator that has not begun is the function it came from, and its arguments."""
    frame = value.gi_frame
    if frame is None or inspect.getgeneratorstate(value) != inspect.GEN_CREATED:
        return _ended, ()
    code = value.gi_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    arguments = {name: frame.f_locals[name] for name in names}
    function = frame.f_globals.get(code.co_name)
    if getattr(function, "__code__", None) is code:
        return _begun, (function, arguments)
    owner = arguments.pop(names[0], None) if names else None
    if getattr(getattr(type(owner), code.co_name, None), "__code__", None) is code:
        return _method, (owner, code.co_name, arguments)
    return _ended, ()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return _reduced(value)


_PICKLING = types.ModuleType("clsuite_pickling")
"""What torch wants of a module that pickles."""
vars(_PICKLING).update(Pickler=_Pickler, Unpickler=pickle.Unpickler)


def to_bytes(strategy: Any, lender: Lender) -> torch.Tensor:
    """All an Avalanche strategy holds as a uint8 tensor."""
    buffer = io.BytesIO()
    token = _lender.set(lender)
    try:
        torch.save(strategy, buffer, pickle_module=_PICKLING)
    finally:
        _lender.reset(token)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def from_bytes(written: torch.Tensor, lender: Lender) -> Any:
    """What `to_bytes` wrote; it runs what the bytes say."""
    token = _lender.set(lender)
    try:
        return torch.load(io.BytesIO(written.cpu().numpy().tobytes()), pickle_module=_PICKLING, weights_only=False)
    finally:
        _lender.reset(token)
