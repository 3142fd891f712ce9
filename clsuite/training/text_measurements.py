"""What is measured of a run over text: losses by corpus after every experience and along the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.language import LanguageNetwork, flops_per_token
from .image_measurements import rows
from .text_metrics import Probe, model_flop_utilisation, summary

if TYPE_CHECKING:
    from ..text import TextStream
    from .run import Run

CHUNK_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens of one forward pass by device: what stays in a CPU's caches, and what keeps a GPU busy."""
REGULAR_PROBES = 20
"""Looks at the losses spread evenly over an experience, beside those after 1, 2, 4, ... steps."""
PROBE_TOKENS = 32_768


class TextMeasurements:
    """Losses [experiences, corpora] in nats per token, window by window, and probes right after a border."""

    def __init__(self, run: Run):
        self.run = run
        self.stream: TextStream = run.stream  # type: ignore[assignment]
        sets = len(self.stream.evaluation_sets)
        self.windows: dict[tuple[int, int], np.ndarray] = {}
        """Mean loss of every window of a set, by experience and set; -1 stands for the initial weights."""
        self.probes: list[Probe] = []
        self.border: dict[int, np.ndarray] = {}
        """Loss of every window that probes look at where the line that goes on stood at the last border, by set."""
        self._bytes = [self.stream.source.bytes_of(self.stream.source.gather(self.stream.evaluation_ids(j), "test")[:, 1:]) for j in range(sets)]
        self._looked_at = [self._evenly(j) for j in range(sets)]

    def _evenly(self, j: int) -> np.ndarray:
        """Places of the windows of set j that probes look at, evenly spread."""
        context = self.stream.source.context
        size, wanted = len(self.stream.evaluation_sets[j]), self.run.probe_tokens
        if wanted is None:
            wanted = min(PROBE_TOKENS, sum(len(e) for e in self.stream.experiences) * context // 100)
        count = min(size, -(-wanted // context))
        return np.arange(count) * size // max(count, 1)

    def losses(self, ids: np.ndarray) -> np.ndarray:
        """Mean loss of every validation window, float64 [len(ids)], in evaluation mode."""
        run = self.run
        modes = run.set_evaluation_mode()
        found: list[Tensor] = []
        # what DDP makes at a network's first pass must serve backward passes too, which inference mode would not let it
        with torch.inference_mode() if run.processes.alone else torch.no_grad():
            for part in torch.from_numpy(ids).split(max(1, CHUNK_TOKENS[run.device.type] // self.stream.source.context)):
                x, y = self.stream.gather(part, "test")
                with run.workload.autocast():
                    logits = run.base.predict(x)
                found.append(F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none").view(len(part), -1).double().mean(1))
        run.restore_modes(modes)
        return torch.cat(found).cpu().numpy()

    def begin(self) -> None:
        """Measure the initial weights."""
        self._measure(-1)

    def wanted(self, i: int) -> bool:
        """Every experience is followed by a measurement."""
        return True

    def row(self, i: int) -> dict[str, Any]:
        """Measure the model as deployed after experience i; the event to report."""
        return {"losses": self._measure(i)}

    def _measure(self, i: int) -> list[float]:
        found = self._by_set([self.stream.evaluation_ids(j) for j in range(len(self.stream.evaluation_sets))])
        for j, values in enumerate(found):
            self.windows[i, j] = values
            self.border[j] = values[self._looked_at[j]]
        return [float(values.mean()) for values in found]

    def _by_set(self, ids: list[np.ndarray]) -> list[np.ndarray]:
        """Losses of windows of every set, in one go."""
        return np.split(self.losses(np.concatenate(ids)), np.cumsum([len(part) for part in ids])[:-1])

    def probe(self, step: int, steps: int) -> dict[str, Any] | None:
        """Losses on a part of the windows: after 1, 2, 4, ... steps of an experience and at regular places; the event to report."""
        every = max(1, steps // REGULAR_PROBES)
        if not any(map(len, self._looked_at)) or (step & (step - 1) and step % every and step != steps):
            return None
        found = self._by_set([self.stream.evaluation_ids(j)[places] for j, places in enumerate(self._looked_at)])
        values = [float(v.mean()) for v in found]
        known = self.run.experience > 0 and len(self.border) == len(found)
        errors = [self._error(v, j) if known else math.nan for j, v in enumerate(found)]
        starts = [float(self.border[j].mean()) if known else math.nan for j in range(len(found))]
        self.probes.append((self.run.experience, step, values, starts, errors))
        if step == steps:
            self.border = dict(enumerate(found))
        return {"event": "losses", "experience": self.run.experience, "step": self.run.step, "losses": values}

    def _error(self, values: np.ndarray, j: int) -> float:
        """Standard error of the change since the border, paired by window."""
        change = values - self.border[j]
        return float(change.std(ddof=1) / math.sqrt(len(change))) if len(change) > 1 else math.nan

    def state(self) -> dict[str, Any]:
        return {"windows": self.windows, "probes": self.probes, "border": self.border}

    def restore(self, state: dict[str, Any]) -> None:
        self.windows, self.probes, self.border = state["windows"], state["probes"], state["border"]

    @property
    def R(self) -> np.ndarray:
        """Losses [experiences, sets] in nats per token; NaN where nothing was measured."""
        shape = (len(self.stream), len(self.stream.evaluation_sets))
        found = np.full(shape, np.nan)
        for (i, j), values in self.windows.items():
            if i >= 0:
                found[i, j] = values.mean()
        return found

    def _bits_per_byte(self) -> np.ndarray:
        """Bits a byte of text for a loss of one nat a token, by set."""
        tokens = np.array([len(e) * self.stream.source.context for e in self.stream.evaluation_sets])
        return tokens / np.maximum(self._bytes, 1) / math.log(2)

    def metrics(self, seconds: float) -> dict[str, Any]:
        """All metrics, as far as the run went."""
        learned = np.array([e.learned_in for e in self.stream.evaluation_sets])
        result = summary(self.windows, self.probes, learned, len(self.stream), self._bits_per_byte(), self.run.timeline.steps)
        tokens = self.run.costs["training"].backward_passes * self.stream.source.context
        speed = tokens / seconds if seconds else None
        return {**result, "tokens_per_second": speed, "model_flop_utilisation": self._utilisation(speed)}

    def _utilisation(self, tokens_per_second: float | None) -> float | None:
        """Of one device; None for a CPU, and for a network whose operations are not known."""
        network, device = self.run.model, self.run.device
        if device.type != "cuda" or not isinstance(network, LanguageNetwork):
            return None
        return model_flop_utilisation(flops_per_token(network, self.stream.source.context), tokens_per_second, torch.cuda.get_device_name(device))

    def document(self) -> dict[str, Any]:
        """The losses of a result."""
        R, factor = self.R, self._bits_per_byte()
        initial = np.array([[self.windows[-1, j].mean() for j in range(R.shape[1])]]) if (-1, 0) in self.windows else np.full((1, R.shape[1]), np.nan)
        curve = [{"experience": i, "step": step, "losses": values} for i, step, values, _, _ in self.probes]
        return {"matrix": rows(R), "matrix_bits_per_byte": rows(R * factor), "initial_loss": rows(initial)[0], "loss_curve": curve}
