"""Batches: joined without touching a pixel, gathered once, and what the model said goes to every piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clsuite.batch import Batch

pytestmark = pytest.mark.unit


class View:
    """Inputs are a function of ids and draws; counts how often somebody looked."""

    def __init__(self):
        self.calls = []

    def __call__(self, batch):
        self.calls.append(batch.ids.tolist())
        x = batch.ids.float()
        return (x if batch.draws is None else x + torch.from_numpy(batch.draws)[:, 0]), batch.ids % 3


@pytest.fixture
def view():
    return View()


def piece(view, ids, experience=0, current=True, draws=None, columns=None):
    return Batch(view, torch.tensor(ids), experience, current, None if draws is None else np.asarray(draws, np.float32)[:, None], columns)


def test_a_join_keeps_order_and_what_is_known_of_each_sample(view):
    joined = piece(view, [1, 2], 4) + piece(view, [7], torch.tensor([2]), current=False) + piece(view, [3])
    assert len(joined) == 4
    assert joined.ids.tolist() == [1, 2, 7, 3]
    assert joined.experience.tolist() == [4, 4, 2, 0]
    assert joined.current.tolist() == [True, True, False, True]
    assert view.calls == []


def test_a_join_of_unseen_pieces_is_looked_at_once(view):
    joined = piece(view, [1, 2]) + (piece(view, [7]) + piece(view, [3]))
    assert joined.x.tolist() == [1, 2, 7, 3] and joined.y.tolist() == [1, 2, 1, 0]
    assert joined.x is joined.x
    assert view.calls == [[1, 2, 7, 3]]


def test_a_piece_that_was_seen_keeps_its_view(view):
    first, second = piece(view, [1, 2]), piece(view, [7])
    seen = first.x
    joined = first + second
    assert joined.x.tolist() == [1, 2, 7]
    assert view.calls == [[1, 2], [7]] and first.x is seen


def test_a_sample_looks_the_same_alone_and_in_a_join(view):
    a, b = piece(view, [1, 2], draws=[0.25, 0.5]), piece(view, [7], draws=[0.75])
    joined = a + b
    assert joined.draws.tolist() == [[0.25], [0.5], [0.75]]
    assert joined.x.tolist() == torch.cat([a.x, b.x]).tolist() == [1.25, 2.5, 7.75]


def test_logits_are_given_to_every_piece(view):
    a, b, c = piece(view, [1, 2]), piece(view, [7], current=False), piece(view, [3])
    joined = a + b + c
    joined.logits = torch.arange(8.0).view(4, 2)
    assert a.logits.tolist() == [[0, 1], [2, 3]] and b.logits.tolist() == [[4, 5]] and c.logits.tolist() == [[6, 7]]


def test_current_only_leaves_out_what_was_replayed_and_keeps_logits(view):
    a, b, c = piece(view, [1, 2], 1), piece(view, [7], 0, current=False), piece(view, [3], 1)
    joined = a + b + c
    joined.logits = torch.arange(8.0).view(4, 2)
    current = joined.current_only()
    assert current.ids.tolist() == [1, 2, 3] and current.current.all()
    assert current.logits.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert a.current_only() is a
    assert len(b.current_only()) == 0


def test_current_pieces_know_their_logits_after_a_larger_join_went_through_the_model(view):
    current = piece(view, [1, 2]) + piece(view, [3])  # a step that crosses the end of an epoch
    larger = current + piece(view, [7], current=False)
    larger.logits = torch.arange(8.0).view(4, 2)
    assert current.current_only().logits.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_columns_common_to_all_pieces_are_joined(view):
    a = piece(view, [1, 2], columns={"logits": torch.ones(2, 3), "score": torch.zeros(2)})
    b = piece(view, [7], columns={"logits": torch.full((1, 3), 2.0)})
    joined = a + b
    assert set(joined.columns) == {"logits"}
    assert joined["logits"].tolist() == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]
    with pytest.raises(KeyError):
        joined["score"]
    assert not (joined + piece(view, [3])).columns


def test_an_experience_number_becomes_one_entry_a_sample(view):
    assert piece(view, [4, 5, 6], 3).experience.tolist() == [3, 3, 3]
