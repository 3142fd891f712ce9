"""EWC, SI, MAS, LwF and A-GEM: what strength does, where they begin, what they cost, exact resuming, and what is refused."""

from __future__ import annotations

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.prefix import shared
from clsuite.experiment.spec import resolve
from clsuite.strategy import Modifier

from .regularised_runs import (
    GRADUAL,
    PENALTIES,
    around,
    digests,
    noted_at_borders,
    spied,
)
from .strategy_runs import execute
from .test_llm_pretraining import tiny
from .text_runs import gone_on

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", PENALTIES)
def test_a_stronger_penalty_keeps_weights_nearer_to_the_border(run_of, small, register, name):
    moved = []
    for strength in (0.0, 1.0, 30.0):
        seen = noted_at_borders(register)
        execute(run_of(*small, "training.learning_rate=0.02", strategy=spied(name, **PENALTIES[name], strength=strength)))
        moved.append(float((seen[1][0] - seen[0][0]).norm()))
    assert moved[0] > moved[1] > moved[2]


@pytest.mark.parametrize(("name", "settings"), [*((n, {**s, "strength": 0.0}) for n, s in PENALTIES.items()), ("lwf", {"alpha": 0.0})])
def test_without_strength_nothing_is_changed(run_of, small, name, settings):
    assert digests(run_of(*small, strategy=around(name, **settings))) == digests(run_of(*small))


@pytest.mark.parametrize(("name", "settings"), [("ewc", PENALTIES["ewc"]), ("mas", PENALTIES["mas"]), ("lwf", {}), ("si", {}), ("agem", {})])
def test_the_first_experience_is_that_of_the_base(run_of, small, name, settings):
    plain, found = digests(run_of(*small)), digests(run_of(*small, strategy=around(name, **settings)))
    assert found[:10] == plain[:10] and found[-1] != plain[-1]


def test_what_acts_from_the_first_border_on_shares_the_first_experience(cell_of, small):
    cells = [cell_of(*small, strategy=around(name)) for name in ("ewc", "mas", "lwf")] + [cell_of(*small)]
    assert {p.until for p in shared(cells).values()} == {1} and len(shared(cells)) == 4
    assert not shared([cell_of(*small, strategy=around(name)) for name in ("si", "agem")])


@pytest.mark.parametrize("name", PENALTIES)
def test_weights_that_are_frozen_have_no_importance(run_of, small, register, name):
    class Freezes(Modifier):
        def before_experience(self, experience):
            for p in self.model.hidden.parameters():
                p.requires_grad_(False)

    register("freezes", Freezes)
    run = run_of(*small, strategy={"name": f"naive+freezes+{name}", name: PENALTIES[name]})
    execute(run)
    hidden = sum(p.numel() for p in run.model.hidden.parameters())
    importance = run.parts[2].importance
    assert importance[:hidden].abs().max() == 0 < importance[hidden:].abs().max()


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_estimating_importance_leaves_running_statistics_and_modes(tiny, run_of, register, name):
    statistics = []

    class Spy(Modifier):
        def after_experience(self, experience):
            statistics.append(({n: b.clone() for n, b in self.model.named_buffers()}, [m.training for m in self.model.modules()]))

    register("spy", Spy)
    strategy = {"name": f"naive+spy+{name}+spy", name: PENALTIES[name]}
    run = run_of("model=resnet20", "scenario.experiences=2", "training.batch_size=40", "training.epochs=1", strategy=strategy, scenario={"dataset": tiny.name})
    execute(run)
    (before, modes), (after, modes_after) = statistics[:2]
    assert modes == modes_after and len(before) > 50
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize(
    ("name", "settings", "extra"),
    [
        ("ewc", {"fisher_samples": 7}, 2 * 7),  # two borders; nothing comes after the last experience
        ("ewc", {"fisher_samples": None, "fisher": "batch"}, 80 + 60),
        ("mas", {"importance_samples": 7}, 2 * 7),
        ("si", {}, 0),
    ],
)
def test_passes_for_importance_are_counted(run_of, small, name, settings, extra):
    plain, run = run_of(*small), run_of(*small, strategy=around(name, **settings))
    execute(plain), execute(run)
    for passes in ("forward_passes", "backward_passes"):
        assert getattr(run.cost, passes) == getattr(plain.cost, passes) + extra


# -- resuming ---------------------------------------------------------------------------------------------------


def text_cell(name, settings, **training):
    """Two experiences of 6 steps of 8 windows."""
    scenario = {"corpora": ["synthetic:0", "synthetic:0:0.5"], "tokens": 1536, "context": 32, "validation_tokens": 320, "probe_tokens": 0}
    model = {"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2}
    return resolve(tiny(scenario=scenario, model=model, training={"batch_size": 8, **training}, strategy=around(name, **settings)))


@pytest.mark.parametrize("name", PENALTIES)
def test_on_text_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, name):
    settings = {"ewc": {"fisher_samples": 6, "strength": 1e4}, "mas": {"importance_samples": 6}, "si": {"strength": 100.0}}[name]
    whole, plain = run_cell(text_cell(name, settings)), run_cell(text_cell(name, {**settings, "strength": 0.0}))
    assert whole["weights_sha256"] != plain["weights_sha256"] and whole["matrix"][0] == plain["matrix"][0]
    for at in (3, 6, 9):
        again = gone_on(lambda: text_cell(name, settings), tmp_path / str(at), at)
        assert again["resume"] == "exact"
        for key in ("weights_sha256", "matrix", "reports"):
            assert again[key] == whole[key]


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_a_run_may_leave_while_importance_is_estimated(tmp_path, cell_of, small, monkeypatch, name):
    """Asked in the middle of it: the whole estimate is made again from the checkpoint before it."""

    def make():
        return cell_of(*small, strategy=around(name, **PENALTIES[name]))

    whole = run_cell(make())
    part = type(make().parts[1])
    asked, real = [], part.samples

    def samples(self, ids):
        asked.append(len(ids))
        self.run.stop_requested = len(asked) == 11
        return real(self, ids)

    monkeypatch.setattr(part, "samples", samples)
    again = gone_on(make, tmp_path, lambda run: False)
    assert len(asked) == 11 + 2 * 20
    assert (
        again["resume"] == "exact" and again["weights_sha256"] == whole["weights_sha256"] and again["cost"]["forward_passes"] == whole["cost"]["forward_passes"]
    )


# -- refusals ---------------------------------------------------------------------------------------------------


REFUSED = {
    "ewc without borders": ({"strategy": "ewc", "scenario": GRADUAL}, "needs 'borders'"),
    "si without borders": ({"strategy": "si", "scenario": GRADUAL}, "needs 'borders'"),
    "mas without borders": ({"strategy": "mas", "scenario": GRADUAL}, "needs 'borders'"),
    "lwf without borders": ({"strategy": "lwf", "scenario": GRADUAL}, "needs 'borders'"),
    "agem whose memory needs borders": (
        {"strategy": around("agem", buffer="experience_balanced"), "scenario": GRADUAL},
        "strategy.buffer = 'experience_balanced' needs task borders",
    ),
    "a base that begins anew": ({"strategy": "joint+ewc"}, "needs 'incremental'"),
    "a base without steps": ({"strategy": "ncm+agem"}, "needs 'incremental'"),
    "negative strength": ({"strategy": around("ewc", strength=-1.0)}, "strategy.ewc.strength = -1.0 is out of bounds: expected a finite value >= 0"),
    "decay above 1": ({"strategy": around("ewc", decay=1.5)}, "strategy.ewc.decay = 1.5 is out of bounds"),
    "no damping": ({"strategy": around("si", damping=0.0)}, "strategy.si.damping = 0.0 is out of bounds: expected a finite value > 0"),
    "temperature 0": ({"strategy": around("lwf", temperature=0.0)}, "strategy.lwf.temperature = 0.0 is out of bounds"),
    "no samples": ({"strategy": around("mas", importance_samples=0)}, "strategy.mas.importance_samples = 0 is out of bounds"),
    "an empty reference": ({"strategy": around("agem", reference_batch=0)}, "strategy.agem.reference_batch = 0 is out of bounds"),
    "agem twice": ({"strategy": "naive+agem+agem"}, "both claim 'rewrites_gradients'"),
    "two sizes of one memory": (
        {"strategy": {"name": "replay+agem", "buffer_size": 5, "agem": {"buffer_size": 6}}},
        "share one memory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_one_line(what):
    raw, message = REFUSED[what]
    with pytest.raises(UsageError) as error:
        make_run(resolve({"scenario": {"dataset": "digits"}, "device": "cpu", **raw}), torch.device("cpu"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_distillation_of_tokens_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="'lwf' cannot be used here: it needs 'classifier'") as error:
        run_cell(text_cell("lwf", {}), Options(tmp_path))
    assert "\n" not in str(error.value)
