"""A strategy that needs a memory but leaves its size to others."""

from clsuite.strategy import Strategy


class Remembers(Strategy):
    """Replay without a setting of its own."""

    needs = {"memory"}

    def training_step(self, batch):
        loss = self.loss(batch + self.memory.sample(len(batch)) if self.memory else batch)
        self.update(loss)
        return loss
