"""LwF: distillation by hand, what it costs, and what its strength does."""

from __future__ import annotations

import pytest

from clsuite.strategy import Modifier

from .regularised_runs import (
    LINEAR,
    around,
    flat,
    outputs_of,
    spied,
)
from .strategy_runs import execute

pytestmark = pytest.mark.unit


def softened(weights, x, classes, temperature):
    return (outputs_of(weights, x)[:, classes] / temperature).log_softmax(1)


@pytest.mark.parametrize("outputs", ["seen", "experience"])
def test_distillation_by_hand(run_of, small, register, outputs):
    """alpha sum_y p_old(y) log(p_old(y) / p_new(y)), a mean over the batch, over all earlier classes at once or by experience."""
    old, checked = [], []

    class Spy(Modifier):
        def after_experience(self, experience):
            old.append(flat(self.model))

        def before_step(self, batch):
            i = self.run.experience
            if i == 0:
                return
            self.run.loss(batch)  # leaves the logits, as the base's own does
            by_experience = [list(e.classes) for e in self.run.stream.experiences[:i]]
            groups = by_experience if outputs == "experience" else [[c for classes in by_experience for c in classes]]
            x, now, expected = batch.x.flatten(1), flat(self.model), 0.0
            for classes in groups:
                was, new = softened(old[i - 1], x, classes, 4.0), softened(now, x, classes, 4.0)
                expected += 0.7 * float((was.exp() * (was - new)).sum(1).mean())
            checked.append((i, self.run.parts[1].penalty().item(), expected))

    register("spy", Spy)
    execute(run_of(*small, *LINEAR, strategy=spied("lwf", alpha=0.7, temperature=4.0, outputs=outputs)))
    assert [i for i, *_ in checked] == [1] * 8 + [2] * 8
    for _, found, expected in checked:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert max(expected for *_, expected in checked) > 1e-4


def test_distillation_is_on_current_samples_and_costs_one_pass_of_the_teacher(run_of, small):
    """Around replay, which joins a batch with one of the memory: its logits are those of the base's own pass."""
    plain = run_of(*small, strategy={"name": "replay", "buffer_size": 20})
    run = run_of(*small, strategy={**around("lwf", base="replay"), "buffer_size": 20})
    execute(plain), execute(run)
    assert run.cost.forward_passes == plain.cost.forward_passes + 2 * (60 + 60)  # two epochs of two experiences
    assert run.cost.backward_passes == plain.cost.backward_passes


def test_a_stronger_distillation_keeps_outputs_nearer_to_the_old_ones(run_of, small, register):
    def drift(alpha):
        kept = []

        class Spy(Modifier):
            def after_experience(self, experience):
                x = self.samples(self.run.stream.ids(self.run.stream.experiences[1].segments)).x
                kept.append(self.model(x).detach()[:, list(self.run.stream.experiences[0].classes)].softmax(1))

        register("spy", Spy)
        execute(run_of(*small, strategy=spied("lwf", alpha=alpha)))
        return float((kept[1] - kept[0]).norm())

    assert drift(0.0) > drift(1.0) > drift(10.0)
