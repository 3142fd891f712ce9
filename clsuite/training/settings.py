"""The settings of training that every strategy shares (`training.*`)."""

from __future__ import annotations

from typing import Any, Literal

from ..errors import UsageError
from ..settings import Configurable, Span, setting


class Training(Configurable):
    """How a network is trained, whatever the strategy. Settings left null take the data set's own default."""

    epochs: int | None = setting(None, ge=1, search=[1, 2, 5, 10], help="passes over each experience")
    batch_size: int | None = setting(None, ge=1, search=[32, 64, 128], help="current samples in a step")
    optimizer: Literal["sgd", "adam", "adamw"] = setting("sgd")
    learning_rate: float | None = setting(None, gt=0, search=Span(1e-3, 0.3, log=True), help="peak rate")
    momentum: float = setting(0.0, ge=0, lt=1, help="of sgd")
    betas: list[float] = setting([0.9, 0.999], ge=0, lt=1, since=2, help="of adam and adamw")
    epsilon: float = setting(1e-8, gt=0, since=2, help="of adam and adamw")
    weight_decay: float = setting(0.0, ge=0, search=[0.0, 1e-4, 5e-4, 1e-3])
    decayed: Literal["all", "matrices"] = setting("all", since=2, help="what weight decay applies to; matrices: not to biases and norms")
    clip_norm: float | None = setting(None, gt=0, help="largest norm of the whole gradient")
    schedule: str | dict[str, Any] = setting({"name": "constant"}, help="learning-rate schedule: a name, or {name: cosine, warmup: 100}")
    border_optimizer: Literal["auto", "keep", "reset"] = setting(
        "auto", help="optimizer state at a border; auto: reset, but keep on recurring and borderless streams"
    )
    border_schedule: Literal["auto", "restart", "extend", "hold", "lengthen"] = setting(
        "auto",
        help="schedule at a border: anew each experience; one over the whole stream; the last rate; or the same with the horizon reached so far; auto as above",
    )
    border_start_from: Literal["final", "pre_decay"] = setting(
        "final", since=2, help="where a border goes on from: the end, or a line without the final decay, of which an annealed branch is measured"
    )
    border_rewarm: int | float | None = setting(
        None, ge=0, since=2, help="warm-up (restart) or way to the new peak (lengthen) after a border, in steps or as a share of the experience below 1"
    )
    border_peak_scale: float = setting(1.0, gt=0, since=2, help="what every border multiplies the peak rate with")
    logit_mask: Literal["none", "batch", "experience", "seen"] = setting(
        "none", help="outputs the loss looks at: all, the classes of this step, of the sample's experience, or seen so far"
    )
    augmentation: list[Literal["crop", "flip", "brightness"]] = setting([], help="drawn anew for every sample and step")
    crop_padding: int = setting(4, ge=0)
    brightness: float = setting(63 / 255, ge=0, le=1, help="largest relative change")
    normalise: Literal["auto", "none", "dataset"] = setting(
        "auto", help="auto: what pretrained weights were trained with, else the data set's statistics for colour images and 0..1 for grey ones"
    )
    evaluate_every: int | Literal["auto"] = setting("auto", ge=1, help="experiences between full evaluations; auto: at most 50 full rows")
    probe_every: int | None = setting(None, ge=1, help="steps between looks at the current test set, for steps_to_90 (null: none)")
    threads: int = setting(1, ge=1, help="numbers differ between thread counts, so this is part of a cell")
    precision: Literal["float32", "float64", "bfloat16"] = setting("float32", help="bfloat16: forward passes of text models; weights stay float32")
    accumulation: int = setting(1, ge=1, since=2, help="parts that a batch of text goes through the network in, for batches that memory cannot hold")
    sharding: Literal["replicate", "shard"] = setting(
        "replicate", since=2, help="several processes (torchrun): each with all weights (DDP), or with a part of each (FSDP2)"
    )
    compile: bool = setting(False, since=2, help="compile the network (torch.compile)")

    @classmethod
    def resolved(cls, values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """All values, with nulls taken from the data set's defaults; raises `UsageError`."""
        result = cls.validated(values, "training")
        if isinstance(result["schedule"], str):
            result["schedule"] = {"name": result["schedule"]}
        for name in ("epochs", "batch_size", "learning_rate"):
            if result[name] is None:
                result[name] = defaults[name]
        rewarm = result["border_rewarm"]
        if isinstance(rewarm, float) and rewarm == int(rewarm):
            result["border_rewarm"] = int(rewarm)  # a cell has one spelling
        if result["optimizer"] != "sgd" and result["momentum"]:
            raise UsageError(f"training.momentum = {result['momentum']} applies to sgd only, not to training.optimizer = {result['optimizer']}")
        if len(result["betas"]) != 2:
            raise UsageError(f"training.betas = {result['betas']} is not valid: expected two numbers")
        return result
