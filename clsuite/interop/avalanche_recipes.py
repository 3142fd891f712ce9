"""Avalanche strategies built around the run's network: the forms that some want it in, and what else they must be given.

Whatever has no recipe here gets the network with its head as a `Wrapped` and what its constructor asks for by the usual names.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..training.run import Run
from . import part
from .avalanche_meter import Meter
from .avalanche_models import Backbone, Normalised, Wrapped, projection


@dataclass
class Kit:
    """What a strategy is built from: the run, and the values of settings by what they belong to (`strategy`, `model`, `extra`)."""

    run: Run
    values: dict[str, dict[str, Any]]
    meter: Meter
    body: Backbone = field(init=False)
    head: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        network = copy.deepcopy(self.run.model)
        self.head = network.head
        self.body = Backbone(network)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.run.stream.source.shape)

    @property
    def width(self) -> int:
        """Features of an image."""
        return self.run.model.head.in_features

    def common(self) -> dict[str, Any]:
        """What every strategy of Avalanche is told."""
        training = self.run.training
        epochs = int(training.epochs or 1)
        sizes = {"train_mb_size": self.run.batch_size, "train_epochs": epochs, "train_passes": epochs, "eval_mb_size": 500}
        return {**sizes, "criterion": nn.CrossEntropyLoss(), "device": self.run.device, "evaluator": None, "eval_every": -1}

    def made(self) -> dict[str, Any]:
        """Parameters that are made of network and stream."""
        layers = {"output_layer_name": None, "cwr_layer_name": "head", "last_layer_name": "head", "name_ext_layer": "body"}
        sizes = {"input_size": self.width, "num_classes": self.run.classes, "n_classes": self.run.classes, "p_size": self.run.classes}
        return {**layers, **sizes, "feature_extractor": self.body, "classifier": self.head, "slda_model": self.body}

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer of `training.*` over all these parameters in one group, as Avalanche wants it."""
        training = self.run.training
        rate, decay = float(training.learning_rate or 0.0), training.weight_decay
        if training.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay)
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=rate, betas=(training.betas[0], training.betas[1]), eps=training.epsilon, weight_decay=decay)


# -- models -----------------------------------------------------------------------------------------------------------


def _wrapped(kit: Kit) -> nn.Module:
    part("models.base_model", "BaseModel").register(Wrapped)  # some ask whether a model says its features
    return Wrapped(kit.body, kit.head)


def _features_then_head(kit: Kit) -> nn.Module:
    return part("models.utils", "FeatureExtractorModel")(kit.body, kit.head)


def _two_classifiers(classifier: str, kit: Kit) -> nn.Module:
    models = part("models")
    return models.TrainEvalModel(kit.body, kit.head, getattr(models, classifier)(**kit.values["model"]))


def _columns(kit: Kit) -> nn.Module:
    return part("models", "PNN")(in_features=math.prod(kit.shape), **kit.values["model"])


def _pruned(kit: Kit) -> nn.Module:
    return part("models.packnet", "PackNetModel")(_wrapped(kit))


def _contrasted(kit: Kit) -> nn.Module:
    return part("models", "SCRModel")(kit.body, projection(kit.width, kit.values["extra"]["projection"]))


MODELS: dict[str, Callable[[Kit], nn.Module]] = {
    "PNNStrategy": _columns,
    "PackNet": _pruned,
    "SCR": _contrasted,
    "FeatureDistillationPlugin": _features_then_head,
    **dict.fromkeys(("CurrentDataNCMUpdate", "MemoryNCMUpdate", "NCMOracle"), functools.partial(_two_classifiers, "NCMClassifier")),
    **dict.fromkeys(("CurrentDataFeCAMUpdate", "MemoryFeCAMUpdate", "FeCAMOracle"), functools.partial(_two_classifiers, "FeCAMClassifier")),
}


# -- arguments --------------------------------------------------------------------------------------------------------


def _generator(kit: Kit) -> dict[str, Any]:
    """A variational autoencoder for images of any shape (Avalanche's own choice is for 28 x 28), trained as Avalanche does."""
    model = part("models.generator", "MlpVAE")(kit.shape, n_classes=kit.run.classes, device=kit.run.device, **kit.values["model"])
    if getattr(model.decoder, "invTrans", None) is not None:  # its images are MNIST's, normalised; the run's are as the run has them
        model.decoder.invTrans = Normalised(kit.run.workload.normalisation, kit.shape[0])  # type: ignore[attr-defined]
    model = model.to(kit.run.device)
    replay = part("training.plugins", "GenerativeReplayPlugin")(**_taken(part("training.plugins", "GenerativeReplayPlugin"), kit.values["strategy"]))
    kind = part("training.supervised", "VAETraining")
    given = kit.common() | {"optimizer": torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-4), "criterion": part("models.generator", "VAE_loss")}
    strategy = kind(**_taken(kind, given), model=model, plugins=[replay])
    strategy.plugins.insert(0, kit.meter)
    kit.meter.watch(model)
    return {"generator_strategy": strategy}


ARGUMENTS: dict[str, Callable[[Kit], dict[str, Any]]] = {
    "GSS_greedy": lambda kit: {"input_size": list(kit.shape)},
    "GenerativeReplay": _generator,
    "ICaRL": lambda kit: {"buffer_transform": None},
}


# -- what does not go with this torch ---------------------------------------------------------------------------------


def _scheduler_without_verbose(*arguments: Any, verbose: bool = False, **named: Any) -> Any:
    """torch dropped `verbose`, which Avalanche 0.6 still gives."""
    return torch.optim.lr_scheduler.MultiStepLR(*arguments, **named)


class _FeaturesOf:
    """torchvision's extractor follows a network symbolically, which networks that look at their input's shape do not bear."""

    def __init__(self, model: nn.Module, return_nodes: list[str]):
        self.model, self.name = model, return_nodes[0]

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.name: self.model.get_features(x)}  # type: ignore[operator]


MENDED: dict[str, tuple[str, str, Any]] = {
    "BiC": ("training.plugins.bic", "MultiStepLR", _scheduler_without_verbose),
    "RARPlugin": ("training.plugins.rar", "create_feature_extractor", _FeaturesOf),
}
"""By class: a module of Avalanche, a name in it, and what stands there instead."""


def mend(kind: str) -> None:
    """Put in place what a class needs to run with this torch and these networks."""
    if kind in MENDED:
        module, name, value = MENDED[kind]
        setattr(part(module), name, value)


# -- building ---------------------------------------------------------------------------------------------------------


def build(row: dict[str, Any], kit: Kit) -> Any:
    """The Avalanche strategy of a catalogue's row."""
    kind = class_of(row)
    mend(kind.__name__)
    model = MODELS.get(kind.__name__, _wrapped)(kit).to(kit.run.device)
    wanted = {**kit.values["strategy"], **ARGUMENTS.get(kind.__name__, lambda kit: {})(kit)}
    if row["kind"] == "plugin":
        plugin = kind(**_taken(kind, {**kit.made(), "model": model, **wanted}))
        kind, wanted = part("training.supervised", "Naive"), {"plugins": [plugin]}
        if callable(plugin):  # a loss
            wanted = {"criterion": plugin}
    given = {**kit.common(), **kit.made(), "model": model, "optimizer": kit.optimizer(model.parameters()), **wanted}
    strategy = kind(**_taken(kind, given))
    strategy.plugins.insert(0, kit.meter)
    kit.meter.watch(strategy.model)
    return strategy


def class_of(row: dict[str, Any]) -> Any:
    """The class of a row; a deprecated one without the function around it."""
    module, _, name = row["class"].partition(":")
    return inspect.unwrap(functools.reduce(getattr, name.split("."), importlib.import_module(module)))  # type: ignore[arg-type]


def _named(kind: Any) -> set[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, p in inspect.signature(kind.__init__).parameters.items() if p.kind in named}


def _taken(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in _named(kind)}
