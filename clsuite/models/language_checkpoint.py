"""Checkpoints of language models: folders with config.json and safetensors weights, as transformers reads and writes them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import torch

from ..data.text.hub import PATIENCE, must_answer
from ..errors import MissingData, UsageError
from .base import replacing

if TYPE_CHECKING:
    from .language import LanguageNetwork

ARCHITECTURES = {"gpt_neox": "GPTNeoX", "llama": "Llama"}

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PADDING = 512


def architecture(name: str) -> tuple[Any, Any]:
    """The configuration and the `ForCausalLM` class of transformers; seconds to import, so only when one is needed."""
    configuration, network = map(importlib.import_module, modules_of(name))
    return getattr(configuration, f"{ARCHITECTURES[name]}Config"), getattr(network, f"{ARCHITECTURES[name]}ForCausalLM")


def modules_of(name: str) -> tuple[str, str]:
    """The modules of transformers that hold the configuration and the network of an architecture."""
    return f"transformers.models.{name}.configuration_{name}", f"transformers.models.{name}.modeling_{name}"


def find_checkpoint(checkpoint: str, revision: str | None, data_root: str | None) -> Path:
    """The folder a `checkpoint` setting means.

    The folder itself; `weights/<checkpoint>` in `data_root`, the environment's CLSUITE_DATA and the user's cache; the hub
    client's cache; and last the hub. What is on this machine is not compared with the hub again. With a `revision` only a
    Hugging Face name can be meant. Raises `MissingData`.
    """
    if revision is None:
        roots = [data_root, os.environ.get("CLSUITE_DATA"), os.path.join(platformdirs.user_cache_dir("clsuite"), "data")]
        for folder in [Path(checkpoint).expanduser(), *(Path(root).expanduser() / "weights" / checkpoint for root in dict.fromkeys(roots) if root)]:
            if checkpoint and folder.is_dir():
                return folder
    elif Path(checkpoint).expanduser().is_dir():
        raise UsageError(f"model.checkpoint_revision = {revision!r} cannot be used: model.checkpoint = {checkpoint!r} is a folder, which has no revisions")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
        raise MissingData(f"model.checkpoint = {checkpoint!r}: no such folder, and not a Hugging Face name (owner/name)")
    return _from_hub(checkpoint, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    reason = ""
    for local in (True, False):
        try:
            with _quiet():
                if not local:  # asks without patience: the download itself has no limit for its first question
                    must_answer(name, revision)
                folder = Path(
                    snapshot_download(
                        name,
                        revision=revision,
                        allow_patterns=["config.json", "model*.safetensors", _INDEX],
                        local_files_only=local,
                        etag_timeout=PATIENCE,
                    )
                )
        except Exception as error:  # the client, its cache and its transport each raise errors of their own
            reason = _short(error)
            continue
        if not local or _is_complete(folder):
            return folder
    at = f" at {revision!r}" if revision is not None else ""
    raise MissingData(
        f"model.checkpoint = {name!r}{at}: no such folder, and none could be had from Hugging Face ({reason}); give a folder with config.json and {_WEIGHTS}"
    )


def _is_complete(folder: Path) -> bool:
    try:
        checkpoint_files(folder)
    except UsageError:
        return False
    return True


def checkpoint_files(folder: Path) -> list[Path]:
    """What of a checkpoint decides the network: config.json, then the files of weights by name; raises `UsageError` for one that is missing."""
    config, weights, index = folder / "config.json", folder / _WEIGHTS, folder / _INDEX
    if not config.is_file():
        raise UsageError(f"model.checkpoint: {folder} has no config.json")
    if weights.is_file():
        return [config, weights]
    if not index.is_file():
        raise UsageError(f"model.checkpoint: {folder} has no safetensors weights ({_WEIGHTS}, or {_INDEX} and the files it names)")
    try:
        names = sorted(set(_json(index)["weight_map"].values()))
        parts = [folder / Path(name).name for name in names]
    except (KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"model.checkpoint: {index} has no weight_map of tensors to files") from error
    for part in parts:
        if not part.is_file():
            raise UsageError(f"model.checkpoint: {folder} has no {part.name}, which {_INDEX} names")
    return [config, *parts]


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"model.checkpoint: {file} cannot be read as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise UsageError(f"model.checkpoint: {file} is not a JSON object")
    return found


def load_checkpoint(folder: Path, name: str, *, context: int, vocabulary: int) -> Any:
    """The `ForCausalLM` network of a folder, in float32 and in training mode, whatever it was saved as.

    Raises `UsageError` when the folder holds another architecture than `name`, fewer positions than `context`, or another
    vocabulary than the tokenizer's. A vocabulary padded to a multiple of 64 (Pythia's: 50,277 tokens, 50,304 rows) is the
    tokenizer's all the same.
    """
    checkpoint_files(folder)
    kind = _json(folder / "config.json").get("model_type")
    if kind not in ARCHITECTURES:
        raise UsageError(f"model.checkpoint: {folder} has the architecture {kind!r} (valid: {', '.join(ARCHITECTURES)})")
    if kind != name:
        raise UsageError(f"model.checkpoint: {folder} has the architecture '{kind}': set model={kind}, not {name}")
    configuration, network = architecture(name)
    try:
        with _quiet():
            config = configuration.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers checks some of it with errors of its own
        raise _unreadable(folder / "config.json", error) from error
    if context > config.max_position_embeddings:
        raise UsageError(f"the context of {context} tokens is longer than the {config.max_position_embeddings} positions of model.checkpoint ({folder})")
    padding = config.vocab_size - vocabulary
    if padding and not (0 < padding < _PADDING and config.vocab_size % 64 == 0):
        raise UsageError(
            f"model.checkpoint: {folder} has a vocabulary of {config.vocab_size} tokens, the tokenizer of the data one of {vocabulary}: "
            "use the tokenizer the checkpoint was trained with"
        )
    try:
        with _quiet():
            language_model, info = network.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors each raise errors of their own
        raise _unreadable(folder, error) from error
    for what in ("missing", "unexpected", "mismatched"):
        if info[f"{what}_keys"]:
            raise UsageError(f"model.checkpoint: {folder} does not fit its own config.json ({what} tensor {min(map(str, info[f'{what}_keys']))})")
    return language_model.train()


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"model.checkpoint: {path} cannot be read ({_short(error)})")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 160, placeholder=' ...')}"


def save_checkpoint(network: LanguageNetwork, folder: str | Path, *, tensors: dict[str, Any] | None = None, max_shard_size: str = "5GB") -> Path:
    """Write a network as a folder that `AutoModelForCausalLM.from_pretrained` and `model.checkpoint` read; returns the folder.

    config.json and safetensors weights, with the names transformers gives them; whole or absent. `tensors`: what `published` gave, where
    the network's own are spread over processes. A folder that exists is a `UsageError`.
    """
    folder = Path(folder)
    if folder.exists():
        raise UsageError(f"the checkpoint folder {folder} exists already: choose another or remove it")
    with replacing(folder) as temporary, _quiet():
        _published(network).save_pretrained(temporary, state_dict=tensors, max_shard_size=max_shard_size)
    return folder


def published(network: LanguageNetwork) -> dict[str, torch.Tensor]:
    """The weights by the names transformers gives them."""
    return dict(_published(network).state_dict())


def _published(network: LanguageNetwork) -> Any:
    """The network as transformers' own class, with the same parameters."""
    with torch.device("meta"):
        shell = architecture(network.config.model_type)[1](network.config)
    setattr(shell, shell.base_model_prefix, network.body)
    shell.set_output_embeddings(network.head)
    return shell


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, advice or reports of transformers and the hub client; both speak again afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    levels = [(logger, logger.get_verbosity()) for logger in (logging, hub)]
    bar, hub_bar = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger, _ in levels:
                logger.set_verbosity(hub.CRITICAL)
            logging.disable_progress_bar()  # the hub client's as well
            yield
    finally:
        for logger, level in levels:
            logger.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
        (enable_progress_bars if hub_bar else disable_progress_bars)()
