"""Half fine-tuning: in every experience a newly drawn half of a language model stays exactly as it is."""

from __future__ import annotations

from typing import Any, Literal

import torch

from clsuite.errors import UsageError
from clsuite.settings import setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

Unit = list[tuple[str, int | None]]
"""What is frozen together: names of parameters, each whole (None) or the rows of the query, key or value (0, 1, 2) of a fused one."""

FUSED = "attention.query_key_value"
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gpt_neox": ((FUSED, FUSED, FUSED, "attention.dense"), ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")),
    "llama": (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ),
}
"""By architecture the modules of a layer that hold Q, K, V, O and those of its feed-forward part."""


class HalfFineTuning(Modifier):
    """HFT: a mask drawn at every border freezes half of each kind of matrix; embedding and head always learn.

    Source: arXiv 2404.18466, re-implemented from notes on the paper. In every layer 2 of the 4 matrices Q, K, V, O
    learn; of 3 feed-forward matrices 2 learn in a random half of the layers and 1 in the others; half of the norms learn. A bias
    goes with its matrix. Frozen weights are bit for bit what they were, under any optimizer and weight decay: what is frozen whole has no
    gradient, so the optimizer leaves it and makes no state for it.

    Ours, where the source (7B models of Llama's kind) says nothing. GPT-NeoX keeps Q, K and V in one tensor, by head: the rows of the frozen ones
    get gradient zero and are put back after the optimizer's step (its moments of these rows decay meanwhile). It has two feed-forward matrices: 1
    of 2 learns. Of odd numbers the smaller half: floor(layers / 2) learn 2 of 3, floor(norms / 2) are frozen, the final norm being one of them.
    `first: auto` masks experience 0 of pretrained models alone. Clipping sees the gradient of what learns. Gradients of frozen weights are
    computed and dropped, so that other parts may look at the whole gradient: the source's saving of time is not had.
    """

    needs = frozenset({"incremental", "borders"})
    claims = frozenset({"rewrites_gradients", "moves_weights"})

    first: Literal["auto", "masked", "free"] = setting("auto", help="experience 0; auto: masked if the model is pretrained, else all of it learns")

    def acts_from(self, experiences: int) -> int:
        return 1 if self.first == "free" else 0

    @property
    def masks_first(self) -> bool:
        """Whether experience 0 is masked."""
        return self.run.pretrained if self.first == "auto" else self.first == "masked"

    def label(self) -> str:
        return f"{self.name} (from {'first_experience' if self.masks_first else 'first_border'})"

    def setup(self) -> None:
        kind = getattr(getattr(self.model, "config", None), "model_type", None)
        if kind not in LAYERS:
            raise UsageError(f"strategy 'half_fine_tuning' knows the layers of language models only (valid models: {', '.join(sorted(LAYERS))})")
        self.frozen: Unit = []
        self.trained_shares: list[float] = []

    def before_experience(self, experience: Experience) -> None:
        self.frozen = self.draw() if experience.index > 0 or self.masks_first else []
        still = sum(self.model.get_parameter(name).numel() // (1 if part is None else 3) for name, part in self.frozen)
        self.trained_shares = [*self.trained_shares, 1 - still / sum(p.numel() for p in self.model.parameters())]

    def draw(self) -> Unit:
        """What is frozen: a new draw by the rule of the source."""
        rng, (attention, feed_forward) = self.generator("masks"), LAYERS[self.model.config.model_type]
        count = len(self.model.body.layers)
        learn_two = set(rng.choice(count, count // 2, replace=False).tolist())
        chosen: Unit = []
        for k in range(count):
            for i in sorted(rng.choice(4, 2, replace=False).tolist()):
                chosen += self._unit(f"body.layers.{k}.{attention[i]}", i if attention[i] == FUSED else None)
            frozen = len(feed_forward) - (2 if len(feed_forward) == 3 and k in learn_two else 1)
            for i in sorted(rng.choice(len(feed_forward), frozen, replace=False).tolist()):
                chosen += self._unit(f"body.layers.{k}.{feed_forward[i]}")
        norms = list(dict.fromkeys(name.rpartition(".")[0] for name in self.model.groups()["norm"]))
        for i in sorted(rng.choice(len(norms), len(norms) // 2, replace=False).tolist()):
            chosen += self._unit(norms[i])
        return chosen

    def _unit(self, module: str, part: int | None = None) -> Unit:
        return [(f"{module}.{name}", part) for name, _ in self.model.get_submodule(module).named_parameters()]

    def rows(self, part: int) -> torch.Tensor:
        """The rows of a fused tensor that belong to the query, key or value of all heads, which stand head by head."""
        heads, width = self.model.config.num_attention_heads, self.model.config.hidden_size
        return torch.arange(3 * width, device=self.run.device).view(heads, 3, width // heads)[:, part].flatten()

    def on_gradients(self) -> None:
        kept = []
        for name, part in self.frozen:
            parameter = self.model.get_parameter(name)
            if parameter.grad is None:
                continue
            if part is None:
                parameter.grad.zero_()  # a part that holds this tensor sees that nothing of it is used
                parameter.grad = None
            else:
                rows = self.rows(part)
                parameter.grad[rows] = 0
                kept.append((parameter, rows, parameter.detach()[rows].clone()))
        if not kept:
            return

        def put_back(*_: Any) -> None:
            """Undo weight decay and momentum in frozen rows, before any other part looks at the weights."""
            handle.remove()
            for parameter, rows, values in kept:
                parameter.data[rows] = values

        assert self.run.optimizer is not None
        handle = self.run.optimizer.register_step_post_hook(put_back)

    def report(self) -> dict[str, Any]:
        return {"trained_shares": self.trained_shares}
