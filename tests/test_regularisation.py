"""EWC, SI, MAS, LwF and A-GEM: importances, penalties and projections by hand, what they cost, exact resuming, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.prefix import shared
from clsuite.experiment.spec import resolve
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .test_llm_pretraining import tiny
from .text_runs import gone_on

pytestmark = pytest.mark.unit

LINEAR = ["model.hidden=[]", "training.precision=float64"]
"""A linear classifier, whose gradients are written down below: weight [10, 64] and bias [10]."""
PENALTIES = {"ewc": {"fisher_samples": 20}, "si": {}, "mas": {"importance_samples": 20}}


def around(name, base="naive", **settings):
    return {"name": f"{base}+{name}", name: settings}


def executed(run, on_step=None):
    loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=on_step)
    loop.execute()
    return loop


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def digests(run):
    found = []
    executed(run, lambda r: found.append(r.weights_digest()))
    return found


@pytest.fixture
def at_borders(register):
    """Put `spy` last in a strategy: at every border it notes weights, and what `look(part before it)` gives."""

    def made(look=lambda part: None):
        class Spy(Modifier):
            seen = []

            def after_experience(self, experience):
                Spy.seen.append((flat(self.model), look(self.run.parts[1])))

        register("spy", Spy)
        return Spy.seen

    return made


def spied(name, **settings):
    return {"name": f"naive+{name}+spy", name: settings}


def samples_of(run, i):
    """Pixels [samples, 64] and labels of an experience, read from the source."""
    ids = run.stream.ids(run.stream.experiences[i].segments)
    images = run.stream.source.images("train")[ids].reshape(len(ids), -1) / 255.0
    return torch.from_numpy(images), torch.from_numpy(run.stream.labels_of(ids))


def of_linear(weights, x, errors):
    """Gradients [samples, 650] of a linear classifier, given those of its outputs [samples, 10]."""
    return torch.cat([(errors[:, :, None] * x[:, None, :]).flatten(1), errors], 1)


def outputs_of(weights, x):
    return x @ weights[:640].view(10, 64).T + weights[640:]


def cross_entropy_gradients(weights, x, y):
    return of_linear(weights, x, outputs_of(weights, x).softmax(1) - F.one_hot(y, 10))


def fisher_by_hand(run, i, weights):
    return cross_entropy_gradients(weights, *samples_of(run, i)).square().mean(0)


def gradient_of(run, part, at):
    """The penalty's gradient at given weights."""
    now = flat(run.model)
    torch.nn.utils.vector_to_parameters(at, run.model.parameters())
    found = torch.cat([g.flatten() for g in torch.autograd.grad(part.penalty(), list(run.model.parameters()))])
    torch.nn.utils.vector_to_parameters(now, run.model.parameters())
    return found


# -- EWC --------------------------------------------------------------------------------------------------------


def test_fisher_information_of_samples_and_its_penalty_by_hand(run_of, small, at_borders):
    seen = at_borders(lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=3.0, fisher_samples=None))
    values = []
    executed(run, lambda r: values.append((flat(r.model), r.parts[1].penalty().item())) if r.experience == 1 else None)
    (anchor, found), *_ = seen
    expected = fisher_by_hand(run, 0, anchor)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    assert len(values) == 8 and values[-1][1] > 0
    for weights, value in values:
        assert value == pytest.approx(1.5 * float((expected * (weights - anchor) ** 2).sum()), rel=1e-9)


def test_fisher_information_of_batches_is_that_of_their_mean_loss(run_of, small, at_borders):
    seen = at_borders(lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("ewc", fisher="batch", fisher_samples=None))
    executed(run)
    (weights, found), *_ = seen
    gradients = [cross_entropy_gradients(weights, x, y).mean(0) for x, y in zip(*(t.split(16) for t in samples_of(run, 0)), strict=True)]
    torch.testing.assert_close(found, torch.stack(gradients).square().mean(0), rtol=1e-9, atol=1e-15)


def test_the_one_quadratic_that_is_kept_is_the_sum_of_those_of_all_experiences(run_of, small, at_borders):
    """Equal gradients everywhere: the penalties differ by a constant."""
    seen = at_borders()
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=2.0, fisher_samples=None))
    executed(run)
    terms = [(fisher_by_hand(run, i, weights), weights) for i, (weights, _) in enumerate(seen[:2])]
    for scale in (0.0, 0.3, 2.0):
        at = torch.from_numpy(np.random.default_rng(0).normal(scale=scale, size=650)) + seen[2][0]
        expected = sum(2.0 * importance * (at - anchor) for importance, anchor in terms)
        torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-13)


def test_online_information_decays_and_pulls_to_the_last_border(run_of, small, at_borders):
    seen = at_borders()
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=2.0, mode="online", decay=0.25, fisher_samples=None))
    executed(run)
    (first, _), (second, _), (at, _) = seen
    expected = 2.0 * (0.25 * fisher_by_hand(run, 0, first) + fisher_by_hand(run, 1, second)) * (at - second)
    torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-15)


def test_with_a_mask_of_the_batch_information_is_about_the_classes_of_the_experience(run_of, small, at_borders):
    """A sample alone has one class: its loss would be 0, and so would all information."""
    seen = at_borders(lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, "training.logit_mask=batch", strategy=spied("ewc", fisher_samples=None))
    executed(run)
    weights, found = seen[0]
    (x, y), present = samples_of(run, 0), torch.zeros(10, dtype=torch.bool)
    present[list(run.stream.experiences[0].classes)] = True
    probabilities = outputs_of(weights, x).masked_fill(~present, -torch.inf).softmax(1)
    torch.testing.assert_close(found, of_linear(weights, x, probabilities - F.one_hot(y, 10)).square().mean(0), rtol=1e-9, atol=1e-15)
    assert found.sum() > 0


# -- MAS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [None, 0.25])
def test_importance_without_labels_by_hand(run_of, small, at_borders, average):
    """|d ||Wx + b||^2| = |2 (Wx + b) x|, of single samples; summed over experiences, or averaged."""
    seen = at_borders()
    run = run_of(*small, *LINEAR, strategy=spied("mas", strength=0.5, average=average, importance_samples=None))
    executed(run)

    def importance(i):
        (x, _), weights = samples_of(run, i), seen[i][0]
        return of_linear(weights, x, 2 * outputs_of(weights, x)).abs().mean(0)

    (a, b) = (1.0, 1.0) if average is None else (0.25, 0.75)
    at = seen[2][0]
    expected = 2 * 0.5 * (a * importance(0) + b * importance(1)) * (at - seen[1][0])
    torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-13)


def test_importance_of_batches_is_the_size_of_their_mean_gradient(run_of, small, at_borders):
    seen = at_borders(lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("mas", importance_of="batch", importance_samples=None))
    executed(run)
    weights, found = seen[0]
    expected = [of_linear(weights, x, 2 * outputs_of(weights, x)).mean(0).abs() for x in samples_of(run, 0)[0].split(16)]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-9, atol=1e-15)


# -- SI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient": "total"}, {"negative": "kept", "damping": 1e-3}, {"largest": 0.005}, {"negative": "kept", "largest": 0.001, "gradient": "total"}],
    ids=str,
)
def test_the_path_integral_by_hand(run_of, small, register, settings):
    """The gradient of the loss on each batch, taken anew before the step, times what the step then did to the weights; biases are made to climb."""
    path, ended, anchors = [[]], [], []

    class Spy(Modifier):
        def before_experience(self, experience):
            anchors.append(flat(self.model))
            path.append([])

        def before_step(self, batch):
            gradients = self.gradients(batch)
            path[-1].append([torch.cat([g.flatten() for g in gradients]), flat(self.model), None])

        def on_gradients(self):
            self.model.head.bias.grad.neg_()

        def after_step(self):
            path[-1][-1][2] = flat(self.model)

        def after_experience(self, experience):
            ended.append(flat(self.model))

    register("spy", Spy)
    strength, damping = 2.0, settings.get("damping", 0.1)
    run = run_of(*small, *LINEAR, "training.momentum=0.5", strategy=spied("si", strength=strength, **settings))
    found = []
    executed(run, lambda r: found.append(r.parts[1].importance) if r.experience > len(found) else None)
    found.append(run.parts[1].importance)

    total, expected, fell = torch.zeros(650, dtype=torch.float64), torch.zeros(650, dtype=torch.float64), False
    for i, steps in enumerate(path[1:]):
        omega = torch.zeros_like(total)
        for gradient, before, after in steps:
            if settings.get("gradient") == "total":
                gradient = gradient + 2 * strength * expected * (before - anchors[i])
            omega -= gradient * (after - before)
        new = omega / ((ended[i] - anchors[i]) ** 2 + damping)
        fell = fell or bool((total + new < 0).any())
        total = total + new if settings.get("negative") == "kept" else torch.maximum(total + new, torch.zeros_like(total))
        expected = total.clamp(max=settings["largest"]) if "largest" in settings else total
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
    assert fell and (total > 0.005).any()


# -- all penalties ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
def test_a_stronger_penalty_keeps_weights_nearer_to_the_border(run_of, small, at_borders, name):
    moved = []
    for strength in (0.0, 1.0, 30.0):
        seen = at_borders()
        executed(run_of(*small, "training.learning_rate=0.02", strategy=spied(name, **PENALTIES[name], strength=strength)))
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
    executed(run)
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
    executed(run)
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
    executed(plain), executed(run)
    for passes in ("forward_passes", "backward_passes"):
        assert getattr(run.cost, passes) == getattr(plain.cost, passes) + extra


# -- LwF --------------------------------------------------------------------------------------------------------


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
    executed(run_of(*small, *LINEAR, strategy=spied("lwf", alpha=0.7, temperature=4.0, outputs=outputs)))
    assert [i for i, *_ in checked] == [1] * 8 + [2] * 8
    for _, found, expected in checked:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert max(expected for *_, expected in checked) > 1e-4


def test_distillation_is_on_current_samples_and_costs_one_pass_of_the_teacher(run_of, small):
    """Around replay, which joins a batch with one of the memory: its logits are those of the base's own pass."""
    plain = run_of(*small, strategy={"name": "replay", "buffer_size": 20})
    run = run_of(*small, strategy={**around("lwf", base="replay"), "buffer_size": 20})
    executed(plain), executed(run)
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
        executed(run_of(*small, strategy=spied("lwf", alpha=alpha)))
        return float((kept[1] - kept[0]).norm())

    assert drift(0.0) > drift(1.0) > drift(10.0)


# -- A-GEM ------------------------------------------------------------------------------------------------------


@pytest.fixture
def projected(register, run_of, small):
    """Gradients [weights] before and after each projection, the reference gradient, and where its samples came from."""

    def run(*overrides, strategy, scenario=None):
        found, kept = [], [text for text in small if scenario is None or not text.startswith("scenario.")]
        more = {} if scenario is None else {"scenario": scenario}

        class Before(Modifier):
            def on_gradients(self):
                found.append({"before": torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])})

        class After(Modifier):
            def on_gradients(self):
                found[-1]["after"] = torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])

        register("look", Before)
        register("look_again", After)
        made = run_of(*kept, *overrides, strategy=strategy, **more)
        gradients = made.gradients

        def watched(batch):
            reference = gradients(batch)
            found[-1].update(reference=torch.cat([g.flatten() for g in reference]), origin=set(batch.experience.tolist()), size=len(batch))
            found[-1]["step"] = made.experience
            return reference

        made.gradients = watched
        executed(made)
        return made, found

    return run


GRADUAL = {"name": "blurry", "dataset": "digits", "experiences": 5, "gradual": True}
ROTATED = {"name": "domain_incremental", "dataset": "digits", "kind": "rotation", "degrees": 30.0, "experiences": 3, "samples_per_class": 20}
AGEM = {"name": "naive+look+agem+look_again", "agem": {"buffer_size": 30, "reference_batch": 12}}


def test_what_would_raise_the_loss_on_the_memory_is_taken_out_and_nothing_else(projected):
    """Under small rotations some steps would raise the loss on what came before, and some would not."""
    run, found = projected("training.precision=float64", strategy=AGEM, scenario=ROTATED)
    assert ["reference" in step for step in found] == [False] * 26 + [True] * 52
    raised = 0
    for step in found[26:]:
        g, r, after = step["before"], step["reference"], step["after"]
        dot = float(g @ r)
        if dot < 0:
            raised += 1
            torch.testing.assert_close(after, g - dot / float(r @ r) * r, rtol=1e-9, atol=1e-14)
            assert abs(float(after @ r)) < 1e-9 * float(g.norm() * r.norm())
        else:
            assert torch.equal(after, g)
        assert step["size"] == 12
    assert 5 < raised < 47
    assert run.parts[2].report() == {"projections": raised}


@pytest.mark.parametrize("insert", ["first_epoch", "always", "experience_end"])
def test_the_reference_is_of_earlier_experiences_however_the_memory_is_filled(projected, insert):
    _, found = projected(strategy={**AGEM, "agem": {**AGEM["agem"], "insert": insert}})
    assert [step["origin"] for step in found[10:18]] == [{0}] * 8
    assert all(step["origin"] <= {0, 1} for step in found[18:])


def test_without_borders_the_reference_is_of_all_the_memory(projected):
    _, found = projected(strategy=AGEM, scenario={**GRADUAL, "samples_per_class": 20})
    assert "reference" not in found[0] and all("reference" in step for step in found[1:])


def test_the_base_draws_what_it_would_have_drawn(run_of, small):
    drawn = {}
    for name in ("replay", "replay+agem"):
        run = run_of(*small, strategy={"name": name, "buffer_size": 20})
        sample, ids = run.memories["replay"].sample, drawn.setdefault(name, [])

        def noted(*arguments, sample=sample, ids=ids):
            batch = sample(*arguments)
            ids.append(batch.ids.tolist())
            return batch

        run.memories["replay"].sample = noted
        executed(run)
    assert drawn["replay"] == drawn["replay+agem"] and len(drawn["replay"]) == 25


def test_reference_passes_are_counted(run_of, small):
    plain, run = run_of(*small), run_of(*small, strategy=around("agem", buffer_size=30, reference_batch=12))
    executed(plain), executed(run)
    assert run.cost.forward_passes == plain.cost.forward_passes + 16 * 12
    assert run.cost.backward_passes == plain.cost.backward_passes + 16 * 12


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
