"""Instruction residuals: what instruction tuning added to a base model, added again to the base after it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from clsuite.errors import UsageError
from clsuite.models.base import Network
from clsuite.models.language import GPTNeoX, LanguageModel, Llama
from clsuite.models.language_checkpoint import checkpoint_files, find_checkpoint
from clsuite.settings import setting
from clsuite.strategy import Modifier

MODELS: dict[str, type[LanguageModel]] = {"gpt_neox": GPTNeoX, "llama": Llama}
SETTING = "strategy.instruction_residual.instruct"
Read = TypeVar("Read")


class Residual(NamedTuple):
    """instruct - base of one tensor: the float64 difference, and what its rounding lost at some `places` of the flat tensor.

    The difference of two float32 is a float64 unless they lie more than 29 binary orders apart, so `places` is nearly always empty.
    It also holds where instruct is -0, with `low` -0: no sum of finite numbers gives that zero its sign.
    """

    high: Tensor
    places: Tensor
    low: Tensor


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum of float64 tensors and its exact error (Knuth's algorithm)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _sign_of_zero(a: Tensor) -> Tensor:
    """-0 where a is -0, else 0: a sum that is zero is +0 in floating point."""
    return torch.zeros_like(a).copysign(torch.where(a == 0, a, torch.zeros_like(a)))


def residual(instruct: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Residual]:
    """theta_instruct - theta_base by name, kept so that `with_residual(base, r)` is `instruct` bit for bit.

    Raises `UsageError` where the two do not have the same tensors.
    """
    odd = sorted(instruct.keys() ^ base.keys())
    if odd:
        raise UsageError(f"{SETTING}: tensor {odd[0]} is in one of the two models only, so they are not of one architecture")
    found = {}
    for name, tensor in base.items():
        if instruct[name].shape != tensor.shape:
            raise UsageError(f"{SETTING}: tensor {name} has the shape {list(instruct[name].shape)}, in the base model {list(tensor.shape)}")
        high, low = _two_sum(instruct[name].detach().double(), -tensor.detach().double())
        low = torch.where(low == 0, _sign_of_zero(instruct[name].detach().double()), low)
        places = ((low != 0) | low.signbit()).flatten().nonzero().flatten()
        found[name] = Residual(high, places, low.flatten()[places])
    return found


def with_residual(base: Mapping[str, Tensor], r: Mapping[str, Residual]) -> dict[str, Tensor]:
    """theta_base + r by name, in the data types of the base."""
    found = {}
    for name, tensor in base.items():
        high, places, low = r[name]
        start = tensor.detach().double()
        total = start + high
        if len(places):
            rounded, error = _two_sum(start.flatten()[places], high.flatten()[places])
            flat = total.flatten()  # a copy only where the tensor is not contiguous
            exact = rounded + (error + low)
            flat[places] = torch.where(exact == 0, _sign_of_zero(low), exact)
            total = flat.view(total.shape)
        found[name] = total.to(tensor.dtype)
    return found


class InstructionResidual(Modifier):
    """Instruction residuals: the base model is trained on; theta + (theta_instruct - theta_base) is deployed for measuring.

    Source: arXiv 2410.10739, re-implemented from the abstract and notes. `model.checkpoint` is the base, `instruct` the same
    model after instruction tuning, read as `model.checkpoint` is. Before any training the deployed model is the instruct model, bit for bit
    (the residual is kept in float64 and a rounding error apart). Looks along the way see the base. What the source reports is weak for
    models of 1.5B parameters or fewer.
    """

    transient = frozenset({"_residual", "_saved", "_read"})

    instruct: str | None = setting(None, help="the instruction-tuned model: a folder or a Hugging Face name, as model.checkpoint")
    instruct_revision: str | None = setting(None, help="branch, tag or commit of a Hugging Face name (null: its main branch)")

    def acts_from(self, experiences: int) -> int:
        return 1

    def weight_files(self, data_root: str | None) -> list[Path]:
        return [] if self.instruct is None else self._in_own_words(lambda: checkpoint_files(self._folder()))

    def setup(self) -> None:
        kind = getattr(getattr(self.model, "config", None), "model_type", None)
        if kind not in MODELS:
            raise UsageError(f"strategy 'instruction_residual' needs a language model with a checkpoint (valid models: {', '.join(MODELS)})")
        if not self.run.pretrained:
            raise UsageError("strategy 'instruction_residual' needs a base model to begin from: give model.checkpoint")
        if self.instruct is None:
            raise UsageError(f"{SETTING} is not set: give the instruction-tuned form of model.checkpoint, a folder or a Hugging Face name")
        instruct = self._instruct(kind)
        self._residual = residual(instruct, dict(self.model.named_parameters()))  # setup comes before any training or resuming
        self._saved: dict[str, Tensor] = {}
        self.instruct_sha256 = self._read

    def _instruct(self, kind: str) -> dict[str, Tensor]:
        """The parameters of the instruct model, on the device and in the precision of the run's."""

        def build() -> Network:
            folder = self._folder()
            files = checkpoint_files(folder)
            self._check_kind(files[0], kind)
            self._read = _digest(files)
            context = self.run.stream.source.shape[0]
            with torch.random.fork_rng(devices=[]):
                return MODELS[kind](checkpoint=str(folder)).build((context,), self.run.classes, None)

        network = self._in_own_words(build)
        like = next(self.model.parameters())
        return {name: p.detach().to(like.device, like.dtype) for name, p in network.named_parameters()}

    def _folder(self) -> Path:
        assert self.instruct is not None
        return find_checkpoint(self.instruct, self.instruct_revision, None)

    @staticmethod
    def _in_own_words(read: Callable[[], Read]) -> Read:
        """What `read` gives; errors of what reads any checkpoint name the setting it was read for here."""
        try:
            return read()
        except UsageError as error:
            words = str(error)
            if SETTING not in words:
                words = words.replace("model.checkpoint_revision", f"{SETTING}_revision").replace("model.checkpoint", SETTING)
            raise type(error)(words if SETTING in words else f"{SETTING}: {words}") from error

    @staticmethod
    def _check_kind(config: Path, kind: str) -> None:
        found = json.loads(config.read_text()).get("model_type")
        if found != kind:
            raise UsageError(f"{SETTING} has the architecture '{found}', model.checkpoint '{kind}': a residual is of two models of one architecture")

    def before_evaluation(self) -> None:
        if self.instruct_sha256 != self._read:
            raise UsageError(f"{SETTING} = {self.instruct!r} is not what it was when this run began: its files have changed")
        self._saved = self.run.snapshot()
        named = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in with_residual(named, self._residual).items():
                named[name].copy_(value)

    def after_evaluation(self) -> None:
        self.run.restore_snapshot(self._saved)
        self._saved = {}

    def report(self) -> dict[str, Any]:
        return {"instruct_sha256": self.instruct_sha256}


def _digest(files: list[Path]) -> str:
    h = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                h.update(block)
    return h.hexdigest()
