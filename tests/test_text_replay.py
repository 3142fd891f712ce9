"""Replay and sampling over corpora: which window every step sees, counted by hand; costs, resuming, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import Diverged, UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.prefix import prefix_of
from clsuite.experiment.spec import resolve
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .text_runs import gone_on, train_bare

pytestmark = pytest.mark.unit

CORPORA = [f"synthetic:0#{k}/3" for k in range(3)]
TOKENS = [6400, 2560, 2560]
"""200, 80 and 80 windows: 25, 10 and 10 steps of 8."""


def cell(strategy, tokens=None, count=3, **more):
    scenario = {"name": "llm_pretraining", "corpora": CORPORA[:count], "tokens": (tokens or TOKENS)[:count], "context": 32}
    return resolve(
        {
            "scenario": {**scenario, "validation_tokens": 640, "probe_tokens": 320},
            "model": {"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2},
            "training": {"batch_size": 8},
            "device": "cpu",
            "strategy": strategy,
            **more,
        }
    )


def watched(run, monkeypatch):
    """Train the run; ids, whether current, and origin of every batch, by experience; and the loop."""
    seen = [[] for _ in run.stream.experiences]
    with monkeypatch.context() as patch:
        owner = next(c for c in type(run.base).__mro__ if "training_step" in vars(c))
        real = owner.training_step

        def step(self, batch):
            seen[run.experience].append((batch.ids.tolist(), batch.current.tolist(), batch.experience.tolist()))
            return real(self, batch)

        patch.setattr(owner, "training_step", step)
        loop = Loop(run, Checkpoints(None, "", {}, math.inf))
        loop.execute()
    return seen, loop


def text_run(strategy, **more):
    return make_run(cell(strategy, **more), torch.device("cpu"))


def tables(run):
    return [run.stream.ids(e.segments).tolist() for e in run.stream.experiences]


def replayed(batches):
    """By step: (origin, id) of every replayed sample."""
    return [[(e, i) for i, c, e in zip(*batch, strict=True) if not c] for batch in batches]


def counts(batches, origins):
    return [tuple(sum(e == k for e, _ in step) for k in origins) for step in replayed(batches)]


def refused(strategy, **more):
    with pytest.raises(UsageError) as error:
        run_cell(cell(strategy, **more))
    assert "\n" not in str(error.value)
    return str(error.value)


REPLAY = {"name": "naive+stream_replay", "stream_replay": {"share": 0.25}}
MIXED = {"name": "joint+temperature_sampling"}


# -- replay from the stream -------------------------------------------------------------------------------------


def test_windows_and_cursors_over_three_experiences_by_hand(monkeypatch):
    run = text_run(REPLAY)
    seen, _ = watched(run, monkeypatch)
    first, second, third = tables(run)
    assert [len(batches) for batches in seen] == [25, 10, 10]
    assert [i for ids, *_ in seen[0] for i in ids] == first  # nothing to replay yet
    # experience 1: a quarter of 8, so 2 windows a step; the corpus gives way and goes on where it stopped
    assert counts(seen[1], (0,)) == [(2,)] * 10
    assert [i for step in replayed(seen[1]) for _, i in step] == first[:20]
    assert [i for ids, current, _ in seen[1] for i, c in zip(ids, current, strict=True) if c] == second[:60]
    # experience 2: 200 and 60 windows were trained on; after n steps floor(2 n 200 / 260) of 2 n come from corpus 0: 1, 3, 4, 6, 7, 9, 10, 12, 13, 15
    assert counts(seen[2], (0, 1)) == [(1, 1), (2, 0)] * 5
    by_corpus = {k: [i for step in replayed(seen[2]) for e, i in step if e == k] for k in (0, 1)}
    assert by_corpus == {0: first[20:35], 1: second[:5]}  # the cursor of corpus 0 was not rewound at the border
    assert [i for ids, current, _ in seen[2] for i, c in zip(ids, current, strict=True) if c] == third[:60]
    assert run.parts[1].report() == {"trained": [200, 60, 60], "replayed": [35, 5, 0]}


@pytest.mark.parametrize("kind", ["compute_equivalent", "additive"])
@pytest.mark.parametrize("order", ["original", "shuffled"])
def test_no_window_is_replayed_that_was_not_trained_on(kind, order, monkeypatch):
    run = text_run({"name": "naive+stream_replay", "stream_replay": {"share": 0.6, "kind": kind, "order": order}})
    seen, _ = watched(run, monkeypatch)
    known: set[int] = set()
    for k, batches in enumerate(seen):
        assert {i for step in replayed(batches) for _, i in step} <= known
        assert all(e < k for step in replayed(batches) for e, _ in step)
        known |= {i for ids, current, _ in batches for i, c in zip(ids, current, strict=True) if c}
    if kind == "compute_equivalent":
        assert len(known) == 200 + 32 + 32  # 8 n - floor(4.8 n) at n = 10
        from_second = [i for step in replayed(seen[2]) for e, i in step if e == 1]
        assert len(from_second) == 48 - 48 * 200 // 232 == 7


def test_shuffled_replay_is_a_permutation_by_the_run_seed(monkeypatch):
    orders = []
    for seed in (0, 0, 1):
        run = text_run({"name": "naive+stream_replay", "stream_replay": {"share": 0.5, "order": "shuffled"}}, tokens=[1280, 2560, 2560], count=2, seed=seed)
        seen, _ = watched(run, monkeypatch)
        table, found = tables(run)[0], [i for step in replayed(seen[1]) for _, i in step]
        assert len(found) == 40 and sorted(found) == sorted(table) and found != table  # 40 windows were trained on, 4 a step come back
        orders.append([table.index(i) for i in found])
    assert orders[0] == orders[1] != orders[2]


def test_replay_goes_round_when_a_corpus_is_used_up(monkeypatch):
    run = text_run({"name": "naive+stream_replay", "stream_replay": {"share": 0.5}}, tokens=[512, 2560, 2560])
    seen, _ = watched(run, monkeypatch)
    first = tables(run)[0]
    assert [i for step in replayed(seen[1]) for _, i in step] == [first[n % 16] for n in range(40)]
    # 16 and 40 trained on: of 40 windows floor(40 * 16 / 56) = 11 come from corpus 0, whose cursor stands at 40
    assert [i for step in replayed(seen[2]) for e, i in step if e == 0] == [first[n % 16] for n in range(40, 51)]


def test_additive_replay_leaves_the_corpus_whole_and_costs_more(monkeypatch):
    plain, costs = None, {}
    for name, strategy in (
        ("naive", "naive"),
        ("additive", {"name": "naive+stream_replay", "stream_replay": {"share": 0.25, "kind": "additive"}}),
        ("equivalent", REPLAY),
    ):
        run = text_run(strategy)
        seen, _ = watched(run, monkeypatch)
        costs[name] = run.costs["training"]
        current = [[i for i, c in zip(ids, now, strict=True) if c] for batches in seen for ids, now, _ in batches]
        plain = plain or current
        assert (current == plain) == (name != "equivalent")
        if name == "additive":
            assert [len(ids) for ids, *_ in seen[1] + seen[2]] == [10] * 20
            assert run.plan_of(2).trained == 80
    assert {name: (c.gradient_steps, c.forward_passes, c.backward_passes) for name, c in costs.items()} == {
        "naive": (45, 360, 360),
        "additive": (45, 400, 400),  # and 20 steps of 2
        "equivalent": (45, 360, 360),
    }


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "naive+stream_replay", "stream_replay": {"share": 0.3}},
        {"name": "naive+stream_replay", "stream_replay": {"share": 0.3, "kind": "additive", "order": "shuffled"}},
        {"name": "naive+temperature_sampling"},
        MIXED,
        {"name": "naive+skill_it", "skill_it": {"update_every": 4, "window": 2, "probe_samples": 8}},
        {"name": "cumulative+skill_it", "skill_it": {"probe_samples": 8}},
        "joint",
        "downstream_only",
    ],
    ids=str,
)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, strategy):
    whole = run_cell(cell(strategy, tokens=[1280, 768, 512]))
    total = whole["cost"]["gradient_steps"]
    for at in {2, total // 2, total - 1}:
        steps = itertools.count(1)

        again = gone_on(lambda: cell(strategy, tokens=[1280, 768, 512]), tmp_path / str(at), lambda run, steps=steps, at=at: next(steps) == at)
        assert again["resume"] == "exact"
        for key in ("weights_sha256", "matrix", "loss_curve", "reports"):
            assert again[key] == whole[key]
        for key in ("gradient_steps", "forward_passes", "backward_passes"):
            assert again["cost"][key] == whole["cost"][key]


def test_cells_that_differ_in_replay_alone_share_the_first_experience():
    prefixes = [
        prefix_of(cell(s), 1, 3)
        for s in ("naive+stream_replay", REPLAY, {"name": "naive+stream_replay", "stream_replay": {"kind": "additive"}}, "naive+temperature_sampling")
    ]
    assert len({p.name for p in prefixes if p is not None}) == 1 and None not in prefixes
    assert prefix_of(cell("naive+stream_replay"), 2, 3).kept == (0, 1)
    assert prefix_of(cell("naive+skill_it"), 1, 3).kept == (0, 1)  # it holds samples apart from the first on


@pytest.mark.parametrize("strategy", [REPLAY, "naive+temperature_sampling"], ids=str)
def test_going_on_from_a_shared_first_experience_changes_no_bit(tmp_path, strategy):
    whole = run_cell(cell(strategy))
    prefix = prefix_of(cell(strategy), 1, 3)
    run_cell(prefix.cell, Options(tmp_path))
    found = run_cell(cell(strategy), Options(tmp_path, start_from=(prefix.cell, prefix.kept)))
    assert found["start_from"]["cell"] == prefix.name
    for key in ("weights_sha256", "matrix", "loss_curve", "reports"):
        assert found[key] == whole[key]


IMAGES = ["scenario.dataset=digits", "scenario.experiences=3", "scenario.first_classes=4", "scenario.samples_per_class=20", "model.hidden=[8]", "device=cpu"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_replay_of_images_stays_within_what_was_trained_on(epochs, run_of, monkeypatch):
    run = run_of(*IMAGES, f"training.epochs={epochs}", "training.batch_size=10", strategy={"name": "naive+stream_replay", "stream_replay": {"share": 0.3}})
    seen, _ = watched(run, monkeypatch)
    trained = []
    for k, batches in enumerate(seen):
        flat = [(e, i) for step in replayed(batches) for e, i in step]
        for c in range(k):
            order = list(dict.fromkeys(trained[c]))
            mine = [i for e, i in flat if e == c]
            start = {(0, 1): 0, (0, 2): 18 * epochs, (1, 2): 0}[c, k]  # 3 a step over 6 steps an epoch
            assert mine == [order[(start + n) % len(order)] for n in range(len(mine))]
        trained.append([i for ids, current, _ in batches for i, c in zip(ids, current, strict=True) if c])
    assert [len(t) for t in trained] == [80 * epochs, 42 * epochs, 42 * epochs]
    # 80 and 42 trained on, or twice that: floor(18 e 80 / 122) of the 18 e replayed ones are of experience 0
    assert sum(e == 0 for step in replayed(seen[2]) for e, _ in step) == {1: 11, 2: 23}[epochs]


def test_replayed_images_never_enter_a_memory_again(run_of, monkeypatch):
    run = run_of(*IMAGES, "training.epochs=1", "training.batch_size=10", strategy={"name": "replay+stream_replay", "buffer_size": 500})
    watched(run, monkeypatch)
    kept = run.memories["replay"].ids.tolist()
    assert len(kept) == len(set(kept)) == 80 + 57 + 57  # six steps of 10, one in twenty gives way


def test_pairings_that_cannot_be_are_refused_in_one_line(run_of):
    assert "needs 'incremental'" in refused("joint+stream_replay")
    assert "needs 'incremental'" in refused("downstream_only+stream_replay")
    assert "'cumulative' trains on earlier experiences as it is" in refused("cumulative+stream_replay")
    assert "single experience" in refused("naive+stream_replay", count=1)
    assert "both claim 'chooses_samples'" in refused("naive+stream_replay+temperature_sampling")
    assert "stream_replay.share = 1.0 is out of bounds" in refused({"name": "naive+stream_replay", "stream_replay": {"share": 1.0}})
    with pytest.raises(UsageError, match="needs 'borders'"):
        run_of("scenario=blurry", "scenario.gradual=true", "scenario.dataset=digits", "scenario.experiences=2", "device=cpu", "strategy=naive+stream_replay")


# -- references -------------------------------------------------------------------------------------------------


def test_joint_training_shuffles_all_corpora_together_and_sees_every_window_once(monkeypatch):
    run = text_run("joint")
    rates = []
    initial = run.weights_digest()
    seen, began = [[] for _ in range(3)], []
    real = type(run.base).training_step
    with monkeypatch.context() as patch:

        def step(self, batch):
            if not seen[run.experience]:
                began.append(run.weights_digest())
            seen[run.experience].append(batch.ids.tolist())
            return real(self, batch)

        patch.setattr(type(run.base), "training_step", step)
        loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=lambda r: rates.append(r.optimizer.param_groups[0]["lr"]))
        loop.execute()
    own = tables(run)
    assert [len(batches) for batches in seen] == [25, 35, 45]
    for i in range(3):
        flat = list(itertools.chain(*seen[i]))
        assert sorted(flat) == sorted(itertools.chain(*own[: i + 1])) and began[i] == initial
        if i:
            assert 20 < sum(w in set(own[0]) for w in flat[: len(flat) // 2]) < len(flat) // 2 - 20  # shuffled together
    for part in (rates[:25], rates[25:60], rates[60:]):  # one schedule over each union, to the same peak
        assert max(part) == pytest.approx(3e-3) and part[-1] < 4e-4
    cost = run.costs["training"]
    assert (cost.gradient_steps, cost.forward_passes, cost.backward_passes) == (105, 200 + 280 + 360, 200 + 280 + 360)


def test_downstream_only_is_a_run_on_the_last_corpus_from_initial_weights(monkeypatch):
    run = text_run("downstream_only")
    initial = run.weights_digest()
    seen, loop = watched(run, monkeypatch)
    assert [len(batches) for batches in seen] == [0, 0, 10] and [i for ids, *_ in seen[2] for i in ids] == tables(run)[2]
    assert np.isnan(loop.measurements.R[:2]).all() and np.isfinite(loop.measurements.R[2]).all()
    assert run.weights_digest() != initial and run.total_steps == run.costs["training"].gradient_steps == 10
    result = run_cell(cell("downstream_only"))
    assert result["matrix"][:2] == [[None] * 3] * 2 and result["metrics"]["forgetting"] is None and result["metrics"]["final_loss"] > 0


def test_downstream_only_trains_as_a_loop_over_the_bare_network():
    # no biases: the gradient of a key's bias is rounding error, which Adam would blow up to a full step
    more = {"model": {"name": "llama", "layers": 1, "width": 16, "heads": 2}, "training": {"batch_size": 8, "schedule": "constant"}}
    run, reference = (make_run(cell("downstream_only", **more), torch.device("cpu")) for _ in range(2))
    Loop(run, Checkpoints(None, "", {}, math.inf)).execute()
    model, stream = reference.model, reference.stream
    train_bare(model, stream, stream.experiences[2].segments[0].indices)
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_downstream_only_on_images_measures_the_last_row(run_of, monkeypatch):
    run = run_of(*IMAGES, "training.epochs=1", "training.batch_size=10", "strategy=downstream_only")
    seen, loop = watched(run, monkeypatch)
    assert [len(batches) for batches in seen] == [0, 0, 6]
    assert np.isnan(loop.measurements.R[:2]).all() and loop.measurements.R[2, 2] > 0


# -- temperature ------------------------------------------------------------------------------------------------


def test_probabilities_of_temperature_sampling_by_hand(monkeypatch):
    run = text_run({"name": "joint+temperature_sampling", "temperature_sampling": {"switch": 0.5}})
    found, kind = [], type(run.parts[1])
    real = kind.probabilities
    monkeypatch.setattr(kind, "probabilities", lambda self: (found.append((run.experience, self.place, real(self))), real(self))[1])
    seen, _ = watched(run, monkeypatch)
    assert [(e, n) for e, n, _ in found] == [(e, n) for e, steps in ((1, 35), (2, 45)) for n in range(steps)]
    for e, n, p in found:
        sizes = [200, 80, 80][: e + 1]
        hot = n < {1: 17.5, 2: 22.5}[e]
        weights = [s ** (1 / 5) if hot else s for s in sizes]
        assert p == pytest.approx([w / sum(weights) for w in weights])
    assert found[0][2] == pytest.approx([0.545696, 0.454304], abs=1e-5)  # 200^0.2 = 2.88540, 80^0.2 = 2.40225
    assert found[-1][2] == pytest.approx([5 / 9, 2 / 9, 2 / 9])
    hot, cold = seen[2][:22], seen[2][23:]
    drawn = [np.mean([e == 0 for *_, origin in part for e in origin]) for part in (hot, cold)]
    # 176 draws at 0.375 and 0.556: three standard errors
    assert abs(drawn[0] - 0.3752) < 0.11 and abs(drawn[1] - 5 / 9) < 0.113
    assert all(len(ids) == 8 for batches in seen for ids, *_ in batches)


def test_no_window_comes_again_before_its_corpus_is_used_up(monkeypatch):
    run = text_run({"name": "naive+temperature_sampling", "temperature_sampling": {"temperature": 100.0, "switch": 1.0}}, tokens=[640, 2560, 2560])
    seen, _ = watched(run, monkeypatch)
    own = tables(run)
    assert [i for ids, *_ in seen[0] for i in ids] == own[0]  # the first experience is left alone
    for c, size in enumerate((20, 80, 80)):
        order = [i for batches in seen[1:] for ids, _, origin in batches for i, e in zip(ids, origin, strict=True) if e == c]
        assert len(order) > 20
        for start in range(0, len(order), size):
            block = order[start : start + size]
            assert len(set(block)) == len(block) and set(block) <= set(own[c])
    for k, batches in enumerate(seen):
        assert all(c == (e == k) for _, current, origin in batches for c, e in zip(current, origin, strict=True))
        assert all(e <= k for *_, origin in batches for e in origin)


def test_temperature_sampling_is_refused_where_it_would_do_nothing():
    even = [2560, 2560, 2560]
    assert "same number of samples" in refused(MIXED, tokens=even)
    assert "both temperatures are 1" in refused({"name": "cumulative+temperature_sampling", "temperature_sampling": {"temperature": 1.0}})
    assert "never has more than one experience" in refused("downstream_only+temperature_sampling")
    assert "never has more than one experience" in refused("downstream_only+skill_it")
    assert run_cell(cell("naive+temperature_sampling", tokens=even))["status"] == "ok"  # replay in equal parts is something


# -- skill-it ---------------------------------------------------------------------------------------------------


def test_probabilities_of_skill_it_by_hand():
    run = text_run({"name": "joint+skill_it", "skill_it": {"eta": 0.5, "window": 3}})
    part = run.parts[1]
    part.setup()
    part.candidates = [0, 1]
    # A = [[1, .5], [.5, 1]], losses (2, 4) then (1, 3): exponents .5 (4 + 2.5) and .5 (5 + 3.5)
    a, b = math.exp(3.25), math.exp(4.25)
    assert part.weighted(np.array([[2.0, 4.0], [1.0, 3.0]])) == pytest.approx([a / (a + b), b / (a + b)])
    part.graph = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]  # row i, column j: training on 1 helps corpus 0 twice as much
    a, b = math.exp(0.5 * 3), math.exp(0.5 * 6)
    assert part.weighted(np.array([[2.0, 4.0], [1.0, 3.0]])) == pytest.approx([a / (a + b), b / (a + b)])


def test_skill_it_measures_on_held_samples_it_never_trains_on_and_pays_for_it(monkeypatch):
    run = text_run({"name": "naive+skill_it", "skill_it": {"update_every": 4, "window": 2, "probe_samples": 8}})
    part = run.parts[1]
    held = [set(part.held(c).tolist()) for c in range(3)]
    assert [len(h) for h in held] == [8, 8, 8] and all(h <= set(t) for h, t in zip(held, tables(run), strict=True))
    states, losses = {}, []
    real = type(part).measured

    def measured(self):
        states[len(losses)] = run.snapshot()
        losses.append(real(self))
        return losses[-1]

    monkeypatch.setattr(type(part), "measured", measured)
    seen, _ = watched(run, monkeypatch)
    assert not set().union(*held) & {i for batches in seen for ids, *_ in batches for i in ids}
    updates = part.report()["updates"]
    assert [(u["experience"], u["step"], len(u["losses"])) for u in updates] == [(1, 0, 2), (1, 4, 2), (1, 8, 2), (2, 0, 3), (2, 4, 3), (2, 8, 3)]
    # 45 steps of 8, and three measurements of two and of three corpora of 8 windows
    cost = run.costs["training"]
    assert (cost.forward_passes, cost.backward_passes, cost.gradient_steps) == (360 + 3 * 16 + 3 * 24, 360, 45)
    for k in (0, 5):
        run.restore_snapshot(states[k])
        run.model.eval()
        for c, found in enumerate(losses[k]):
            x, y = run.stream.gather(torch.from_numpy(np.array(sorted(held[c]))))
            with torch.no_grad():
                assert found == pytest.approx(float(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten())), rel=1e-5)
    A = np.where(np.eye(3, dtype=bool), 1.0, 0.5)
    weights = np.exp(0.5 * A @ (np.array(losses[4]) + np.array(losses[5])))  # the last two measurements
    assert updates[-1]["probabilities"] == pytest.approx((weights / weights.sum()).tolist())
    assert sum(part.report()["sampled"]) == 360


def test_skill_it_refuses_what_cannot_be():
    assert "graph = [[1.0]] is not valid: expected 3 rows of 3 numbers" in refused({"name": "naive+skill_it", "skill_it": {"graph": [[1.0]]}})
    assert "update_every = 1.5 is not valid" in refused({"name": "naive+skill_it", "skill_it": {"update_every": 1.5}})


def test_skill_it_stops_when_a_measurement_is_not_finite(monkeypatch):
    run = text_run("naive+skill_it")
    part = run.parts[1]
    part.setup()
    part.before_experience(run.stream.experiences[1])
    with torch.no_grad():
        next(run.model.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="skill_it"):
        part.probabilities()
