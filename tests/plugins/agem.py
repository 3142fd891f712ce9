"""Averaged gradient episodic memory: gradients are projected between backward and the step."""

from clsuite.settings import setting
from clsuite.strategy import Modifier


class AGEM(Modifier):
    """A-GEM: where the gradient would raise the loss on the memory, that component is taken out."""

    needs = {"memory"}
    claims = {"rewrites_gradients"}
    buffer_size: int | None = setting(None, ge=1)
    reference_batch: int = setting(32, ge=1)

    def setup(self):
        self.projections = 0

    def on_gradients(self):
        if not self.memory:
            return
        reference = self.gradients(self.memory.sample(self.reference_batch))
        pairs = [(p.grad, r) for p, r in zip(self.model.parameters(), reference, strict=True) if p.grad is not None and r is not None]
        dot = sum((g * r).sum() for g, r in pairs)
        if dot < 0:
            scale = dot / sum((r * r).sum() for _, r in pairs)
            for g, r in pairs:
                g.sub_(scale * r)
            self.projections += 1
