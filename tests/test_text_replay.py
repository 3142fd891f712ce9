"""Replay from a stream of corpora: which window every step sees, counted by hand; costs, resuming, and what is refused."""

from __future__ import annotations

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.prefix import prefix_of

from .text_batches import IMAGES, cell, check_stopped, counts, refused, replayed, tables, text_run, watched

pytestmark = pytest.mark.unit

REPLAY = {"name": "naive+stream_replay", "stream_replay": {"share": 0.25}}


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
    ],
    ids=str,
)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, strategy):
    check_stopped(tmp_path, strategy)


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
