"""Methods as users write them, in a file of their own, do what they say and go on exactly after a kill."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.memory import Memory
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent.resolve() / "plugins"
EWC = f"{FOLDER / 'ewc.py'}:EWC"
AGEM = f"{FOLDER / 'agem.py'}:AGEM"
HALF = f"{FOLDER / 'half_fine_tuning.py'}:HalfFineTuning"
EQUIVALENT = f"{FOLDER / 'compute_equivalent_replay.py'}:ComputeEquivalentReplay"


def around(*modifiers, base="naive", **settings):
    """A strategy of references to files; modifiers are names or (name, settings)."""
    named = [{"name": m} if isinstance(m, str) else {"name": m[0], **m[1]} for m in modifiers]
    return {"name": base, "modifiers": named, **settings}


def execute(run, on_step=None):
    loop = Loop(run, Checkpoints(None, "", {}), on_step=on_step)
    loop.execute()
    return loop


@pytest.fixture
def spy(register):
    """A modifier of that name whose hooks are functions of the test."""
    return lambda name, **hooks: register(name, type(name.title(), (Modifier,), hooks))


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def gradient_by_hand(run, ids):
    x = torch.from_numpy(run.stream.source.images("train")[ids] / 255.0).float()
    y = torch.from_numpy(run.stream.source.labels("train")[ids]).long()
    return torch.autograd.grad(F.cross_entropy(run.model(x), y), list(run.model.parameters()))


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


# -- EWC --------------------------------------------------------------------------------------------------------


def test_the_penalty_of_ewc_is_half_its_strength_times_the_weighted_distance(run_of, small, spy):
    anchor, checked = [], []

    def remember(self, experience):
        if not anchor:
            anchor.extend(p.detach().clone() for p in self.model.parameters())

    spy("spy", after_experience=remember)
    run = run_of(*small, strategy=around((EWC, {"strength": 30.0}), "spy"))
    ewc, drawn = run.parts[1], []
    real = run.samples
    run.samples = lambda ids: (drawn.append((run.experience, ids)), real(ids))[1]
    expected = []

    def compare(r):
        if r.experience == 1:
            if not expected:  # the importance of experience 0, at the weights it ended with
                now = [p.detach().clone() for p in r.model.parameters()]
                with torch.no_grad():
                    for p, old in zip(r.model.parameters(), anchor, strict=True):
                        p.copy_(old)
                squares = [[g**2 for g in gradient_by_hand(r, ids)] for i, ids in drawn if i == 0]
                expected.extend(sum(column) / len(squares) for column in zip(*squares, strict=True))
                with torch.no_grad():
                    for p, value in zip(r.model.parameters(), now, strict=True):
                        p.copy_(value)
                assert len(squares) == 64 and all(len(ids) == 1 for _, ids in drawn)
            by_hand = sum(15.0 * (F_ * (p.detach() - old) ** 2).sum() for p, old, F_ in zip(r.model.parameters(), anchor, expected, strict=True))
            checked.append((ewc.penalty().item(), by_hand.item()))
        elif r.experience == 0:
            assert ewc.penalty() is None

    execute(run, compare)
    found, by_hand = np.array(checked).T
    assert len(found) == 8 and (found > 0).all()
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_ewc_pulls_towards_the_last_border(run_of, small, spy):
    distance = {}
    for strength in (0.0, 1.0, 10.0):
        ended = []
        spy("spy", after_experience=lambda self, e, ended=ended: ended.append(flat(self.model.parameters())))
        execute(run_of(*small, "training.learning_rate=0.05", strategy=around((EWC, {"strength": strength}), "spy")))
        distance[strength] = float((ended[1] - ended[0]).norm())
    assert distance[10.0] < distance[1.0] < distance[0.0]


# -- A-GEM ------------------------------------------------------------------------------------------------------


def test_agem_takes_out_what_would_raise_the_loss_on_the_memory(run_of, small, spy, monkeypatch):
    before, cases = [], []
    drawn, real = [], Memory.sample

    def sample(self, *arguments):
        drawn.append(real(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(Memory, "sample", sample)
    spy("early", on_gradients=lambda self: before.append(flat(p.grad for p in self.model.parameters())))

    def late(self):
        after = flat(p.grad for p in self.model.parameters())
        if not drawn:
            assert torch.equal(before[-1], after)
            return
        reference = flat(gradient_by_hand(self.run, drawn.pop().ids.numpy())).double()
        g, projected = before[-1].double(), after.double()
        scale = float(reference.norm() * g.norm())
        if float(g @ reference) < -1e-5 * scale:
            assert abs(float(projected @ reference)) < 1e-5 * scale
            by_hand = g - (g @ reference) / (reference @ reference) * reference
            torch.testing.assert_close(projected, by_hand, rtol=1e-3, atol=1e-5)
            cases.append("projected")
        elif float(g @ reference) > 1e-5 * scale:
            assert torch.equal(before[-1], after)
            cases.append("kept")

    spy("late", on_gradients=late)
    run = run_of(*small, strategy=around("early", (AGEM, {"buffer_size": 40}), "late"))
    execute(run)
    assert cases.count("projected") == run.parts[2].projections > 0 and "kept" in cases
    assert len(cases) == 25


# -- half fine-tuning -------------------------------------------------------------------------------------------


def test_half_fine_tuning_keeps_another_half_of_the_tensors_in_every_experience(run_of, small, spy):
    states, frozen = [], []

    def note(self, experience):
        states.append(weights(self.run))
        frozen.append(set(self.run.parts[1].frozen))

    spy("spy", before_experience=note, end=lambda self: states.append(weights(self.run)))
    run = run_of(*small, "model.hidden=[20,16,12,8]", "training.momentum=0.9", strategy=around(HALF, "spy"))
    execute(run)
    hidden = {name for name in states[0] if name.startswith("hidden")}
    for i in range(3):
        still = {name for name in states[i] if torch.equal(states[i][name], states[i + 1][name])}
        assert still == frozen[i] and len(still) == len(hidden) // 2 and still < hidden
    assert len({frozenset(names) for names in frozen}) > 1


def test_two_parts_that_rewrite_gradients_are_refused(run_of, small):
    with pytest.raises(UsageError, match="both claim 'rewrites_gradients'") as error:
        run_of(*small, strategy=around(AGEM, HALF))
    assert "\n" not in str(error.value)


# -- compute-equivalent replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_a_share_of_every_batch_is_old_at_no_extra_step(share, run_of, small, spy):
    log = []
    spy("spy", before_step=lambda self, batch: log.append((self.run.experience, batch.current.numpy(), batch.experience.numpy(), batch.ids.numpy())))
    run = run_of(*small, strategy=around("spy", base=EQUIVALENT, share=share))
    execute(run)
    for i, steps in enumerate((10, 8, 8)):
        of_this = [entry for entry in log if entry[0] == i]
        assert len(of_this) == steps  # as without replay
        replayed = []
        for n, (_, current, origin, ids) in enumerate(of_this):
            expected = math.floor((n + 1) * 16 * share) - math.floor(n * 16 * share) if i else 0
            assert (~current).sum() == expected
            assert len(current) == 16 or i == 0  # experience 0 has no mixture: its epochs of 80 are whole batches too
            assert (origin[current] == i).all() and (origin[~current] < i).all()
            replayed += ids[~current].tolist()
        earlier = np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences[:i]]).tolist() if i else []
        assert replayed == (earlier * (1 + len(replayed) // max(len(earlier), 1)))[: len(replayed)]  # in table order, one cursor
    assert run.step == run.total_steps == 26


# -- going on ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


def numbers(result):
    cost = {k: v for k, v in result["cost"].items() if "seconds" not in k and not k.startswith("peak")}
    return {k: result[k] for k in ("cell", "status", "metrics", "matrix", "initial_accuracy", "reports", "weights_sha256", "resume")} | cost


@pytest.mark.parametrize(
    "strategy",
    [
        around(EWC),
        around((AGEM, {"buffer_size": 30})),
        around(AGEM, EWC, base="replay", buffer_size=30),
        around(HALF),
        around(base=EQUIVALENT),
    ],
    ids=["ewc", "agem", "replay, agem and ewc", "half fine-tuning", "compute-equivalent replay"],
)
def test_a_plug_in_that_was_killed_goes_on_exactly(strategy, cell_of, small, tmp_path):
    def cell():
        return cell_of(*small, "training.momentum=0.9", strategy=strategy)

    whole = run_cell(cell())
    kills = [1, 7, 10, 11, 17, 18, 25]
    deaths, events = [], []

    def kill(run):
        if run.step in kills:
            kills.remove(run.step)
            deaths.append(run.step)
            raise Killed

    while True:
        try:
            result = run_cell(cell(), Options(tmp_path, 0.0, on_step=kill, on_event=[lambda record: events.append(record["event"])]))
            break
        except Killed:
            pass
    assert deaths == [1, 7, 10, 11, 17, 18, 25] and events.count("resumed") >= 6
    assert result["resume"] == "exact" and numbers(result) == numbers(whole)
