"""FPF: which weights it moves, when, what for, and what it leaves as it was."""

from __future__ import annotations

import pytest
import torch

from clsuite import registry
from clsuite.experiment.cell import Options, run_cell

from .strategy_runs import before_updates, close, crossed, execute, moved, pixels, refused, weights

pytestmark = pytest.mark.unit

FPF = ["strategy=naive+fpf", "strategy.fpf.buffer_size=40", "strategy.fpf.steps_each=3", "strategy.fpf.replay_batch=16"]


@pytest.fixture
def tunings(monkeypatch):
    """Of every fine-tuning: the step, the weights before and after."""
    found = []
    kind = registry.load("strategies", "fpf")
    real = kind.fine_tune

    def fine_tune(self):
        before = weights(self.run)
        real(self)
        found.append((self.run.step, before, weights(self.run)))

    monkeypatch.setattr(kind, "fine_tune", fine_tune)
    return found


IN_MLP = {
    "last_layer": {"head.weight", "head.bias"},
    "first_conv": {"hidden.0.weight", "hidden.0.bias"},
    "all": {"head.weight", "head.bias", "hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias"},
}


@pytest.mark.parametrize("modules", [None, *IN_MLP])
def test_fpf_moves_the_chosen_modules_of_an_mlp_and_nothing_else(modules, run_of, small, tunings):
    chosen = [] if modules is None else [f"strategy.fpf.modules={modules}"]
    run = run_of(*small, "model.hidden=[20,12]", *FPF, "strategy.fpf.times=3", *chosen)
    execute(run)
    assert len(tunings) == 3
    for _, before, after in tunings:
        assert moved(before, after) == IN_MLP[modules or "last_layer"]
    assert all(p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize("modules", [None, "bn", "bn+last_layer", "bn+last_layer+first_conv"])
def test_fpf_moves_the_chosen_modules_of_a_resnet_and_nothing_else(modules, colour, tunings):
    run = colour(*FPF, *([] if modules is None else [f"strategy.fpf.modules={modules}"]))
    execute(run)
    wanted = {name for name in weights(run) if "bn" in name}
    if modules != "bn":
        wanted |= {"head.weight", "head.bias"}
    if modules is not None and "first_conv" in modules:
        wanted.add("conv1.weight")
    [(_, before, after)] = tunings
    assert moved(before, after) == wanted and len(wanted) < len(before)


def test_fpf_of_random_weights_moves_as_many_as_the_default_modules_have(colour, tunings, monkeypatch):
    # a loss whose gradient is one everywhere: real ones are zero behind units that never fire
    monkeypatch.setattr(registry.load("strategies", "fpf"), "loss", lambda self, batch: sum(p.sum() for p in self.model.parameters()))
    run = colour(*FPF, "strategy.fpf.modules=random", "strategy.fpf.times=2", "training.precision=float64")
    execute(run)
    default = sum(p.numel() for name, p in run.model.named_parameters() if "bn" in name or "head" in name)
    masks = []
    for _, before, after in tunings:
        masks.append(torch.cat([(before[name] != after[name]).flatten() for name in before]))
        assert int(masks[-1].sum()) == default
    assert len(masks) == 2 and torch.equal(*masks)  # drawn once
    per_tensor = masks[0].split([p.numel() for p in run.model.parameters()])
    assert sum(bool(m.any()) for m in per_tensor) > 20  # all over the network: every large tensor has some
    assert run.parts[1].report()["parameters"] == default


def test_fpf_refuses_an_empty_choice(cell_of, small, tmp_path):
    text = refused(lambda: run_cell(cell_of(*small, *FPF, "strategy.fpf.modules=bn"), Options(tmp_path)))
    assert "strategy.fpf.modules = 'bn'" in text and not list(tmp_path.rglob("result.json"))


def test_fpf_refuses_times_together_with_a_period(cell_of, small):
    text = refused(lambda: run_cell(cell_of(*small, *FPF, "strategy.fpf.times=3", "strategy.fpf.period=5")))
    assert "strategy.fpf.times" in text and "strategy.fpf.period" in text


@pytest.mark.parametrize("setting", ["times", "period"])
@pytest.mark.parametrize("base", ["ncm", "gdumb", "joint"])
def test_fpf_refuses_to_count_steps_of_a_base_that_takes_none(base, setting, cell_of, small):
    text = refused(lambda: run_cell(cell_of(*small, f"strategy={base}+fpf", f"strategy.fpf.{setting}=3")))
    assert f"strategy.fpf.{setting}" in text and base in text


@pytest.mark.parametrize(
    ("setting", "steps"),
    [("times=1", [26]), ("times=4", [6, 13, 20, 26]), ("times=9", [3, 6, 9, 12, 14, 17, 20, 23, 26]), ("period=10", [10, 20, 26]), ("period=13", [13, 26])],
)
def test_fpf_fine_tunes_at_evenly_spaced_steps_and_at_the_end(setting, steps, run_of, small, tunings):
    run = run_of(*small, *FPF, f"strategy.fpf.{setting}")  # 10 + 8 + 8 steps
    execute(run)
    assert [step for step, _, _ in tunings] == steps == run.parts[1].triggers
    assert run.costs["training"].gradient_steps == 26 + 3 * len(steps)
    assert run.costs["deployment"].gradient_steps == 0
    assert run.parts[1].report()["fine_tunings"] == len(steps)


REPLAY_FPF = ["strategy=replay+fpf", "strategy.buffer_size=40", "strategy.fpf.steps_each=5"]


def test_fpf_at_the_end_changes_the_last_row_only(cell_of, small):
    base = run_cell(cell_of(*small, "strategy=replay", "strategy.buffer_size=40"))
    tuned = run_cell(cell_of(*small, *REPLAY_FPF, "strategy.fpf.modules=all"))
    assert tuned["matrix"][:2] == base["matrix"][:2] and tuned["matrix"][2] != base["matrix"][2]
    assert tuned["weights_sha256"] != base["weights_sha256"]
    assert tuned["reports"]["fpf"]["last_row_only"] is True
    assert tuned["cost"]["gradient_steps"] == base["cost"]["gradient_steps"] + 5


@pytest.mark.parametrize("augmentation", ["[]", "[crop,flip]"])
def test_fpf_before_every_evaluation_leaves_training_as_it_was(augmentation, cell_of, small):
    small = [*small, f"training.augmentation={augmentation}"]
    base = run_cell(cell_of(*small, "strategy=replay", "strategy.buffer_size=40"))
    tuned = run_cell(cell_of(*small, *REPLAY_FPF, "strategy.fpf.when=evaluation", "strategy.fpf.modules=all"))
    assert tuned["weights_sha256"] == base["weights_sha256"]
    assert all(a != b for a, b in zip(tuned["matrix"], base["matrix"], strict=True))
    assert tuned["cost"]["gradient_steps"] == base["cost"]["gradient_steps"]
    assert tuned["cost"]["deployment"]["gradient_steps"] == 3 * 5


def test_fpf_at_evaluation_restores_running_statistics_too(colour):
    base, tuned = colour("strategy=naive"), colour(*FPF, "strategy.fpf.when=evaluation")
    execute(base), execute(tuned)
    assert base.weights_digest() == tuned.weights_digest()


@pytest.mark.parametrize("distillation", [0.0, 0.4])
def test_fpf_distils_from_the_logits_stored_with_the_samples(distillation, run_of, small, spy, draws):
    current, stored, checked = [], {}, []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=naive+spy+fpf", *FPF[1:], "strategy.fpf.times=3", f"strategy.fpf.distillation={distillation}")

    def see(loss, optimizer):
        if optimizer is None:
            with torch.no_grad():
                for i, row in zip(current[-1], run.model(pixels(run, current[-1])), strict=True):
                    stored.setdefault(int(i), row)
            return
        ids = draws[-1].ids
        expected = crossed(run, ids)
        if distillation:
            old = torch.stack([stored[int(i)] for i in ids])
            expected = expected + distillation * (run.model(pixels(run, ids)) - old).square().mean()
        assert close(loss, expected)
        group = optimizer.param_groups[0]
        assert type(optimizer) is torch.optim.SGD and (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0, 0)
        checked.append(len(ids))

    before_updates(run, see)
    execute(run)
    assert checked == [16] * 9
