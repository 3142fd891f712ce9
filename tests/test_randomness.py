"""Randomness by name: one seed one number, whatever ran before and whoever else takes part."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from clsuite.experiment.cell import run_cell
from clsuite.randomness import generator, seed_of, torch_seed
from clsuite.strategy import Modifier, Strategy

pytestmark = pytest.mark.unit


def numbers(result):
    cost = {k: v for k, v in result["cost"].items() if "seconds" not in k and "memory" not in k}
    return result["metrics"], result["matrix"], result["matrix_known_task"], result["initial_accuracy"], result["weights_sha256"], cost


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ((0, "order", 1, 2), '[0, "order", 1, 2]'),
        ((7, "initial_weights"), '[7, "initial_weights"]'),
        (("a b", 3), '["a b", 3]'),
        (("a", "b", 3), '["a", "b", 3]'),
    ],
)
def test_a_seed_is_the_sha256_of_the_name(name, text):
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:32], 16)
    assert seed_of(*name) == expected
    assert torch_seed(*name) == expected // 2**65 < 2**63
    assert generator(*name).random() == np.random.Generator(np.random.PCG64(expected)).random()


GOLDEN = {
    "seed": 332204247733767272248587042566406880170,
    "permutation": [2, 6, 1, 8, 0, 9, 5, 4, 7, 3],
    "random": [0.47945680032849547, 0.33077808833782885],
    "torch": 7135576445873272015,
}


def test_golden_values():
    """Fixed for ever: every published number rests on them."""
    assert seed_of(0, "order", 0, 0) == GOLDEN["seed"]
    assert generator(0, "order", 0, 0).permutation(10).tolist() == GOLDEN["permutation"]
    assert generator(0, "memory", "replay").random(2).tolist() == GOLDEN["random"]
    assert torch_seed(0, "initial_weights") == GOLDEN["torch"]


def test_numbers_of_numpy_type_name_the_same_generator():
    assert seed_of(np.int64(3), "x") == seed_of(3, "x") != seed_of("3", "x")


# -- runs -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_whatever_ran_before(cell_of, small):
    def replay():
        return numbers(run_cell(cell_of(*small, "strategy=replay", "training.augmentation=[crop]")))

    first = replay()
    torch.manual_seed(99), np.random.seed(98), random.seed(97)
    run_cell(cell_of(*small, "seed=5"))
    torch.rand(3)
    assert replay() == first


def test_the_order_in_which_cells_run_does_not_matter(cell_of, small):
    cells = {seed: [*small, f"seed={seed}", "strategy=replay"] for seed in range(3)}
    forwards = {seed: numbers(run_cell(cell_of(*raw))) for seed, raw in cells.items()}
    backwards = {seed: numbers(run_cell(cell_of(*cells[seed]))) for seed in reversed(cells)}
    assert forwards == backwards
    assert len({result[4] for result in forwards.values()}) == 3  # another seed, other weights


class Inert(Modifier):
    """Draws under its own name and changes nothing."""

    def setup(self):
        self.kept = torch.zeros(3)

    def before_step(self, batch):
        self.kept += torch.from_numpy(self.generator("idle").random(3))

    def penalty(self):
        return None

    def after_step(self):
        self.generator("other").permutation(5)

    def before_evaluation(self):
        torch.rand(3)


@pytest.mark.parametrize("base", ["naive", "replay", "derpp"])
def test_an_inert_modifier_changes_no_number(cell_of, small, register, base):
    register("inert", Inert)
    raw = [*small, "training.augmentation=[crop,flip]", "model=mlp"]
    plain = numbers(run_cell(cell_of(*raw, f"strategy={base}")))
    assert numbers(run_cell(cell_of(*raw, f"strategy={base}+inert"))) == plain
    assert numbers(run_cell(cell_of(*raw, f"strategy={base}+inert+inert"))) == plain


class Careless(Strategy):
    """Draws from the default generator, as dropout does."""

    def training_step(self, batch):
        loss = self.loss(batch) * torch.rand(())
        self.update(loss)
        return loss


def test_what_is_drawn_to_deploy_a_model_leaves_training_as_it_was(cell_of, small, register):
    register("careless", Careless)
    register("inert", Inert)
    plain = numbers(run_cell(cell_of(*small, "strategy=careless")))
    assert numbers(run_cell(cell_of(*small, "strategy=careless+inert"))) == plain
    assert numbers(run_cell(cell_of(*small, "strategy=careless"))) == plain


def test_a_part_s_generators_are_named_by_part_occurrence_and_purpose(run_of, small, register):
    register("inert", Inert)
    run = run_of(*small, "strategy=naive+inert+inert", "seed=3")
    first, second = run.parts[1:]
    expected = {
        (0, "a"): np.random.Generator(np.random.PCG64(int(hashlib.sha256(b'[3, "part", "inert", 0, "a"]').hexdigest()[:32], 16))).random(),
        (1, "a"): np.random.Generator(np.random.PCG64(int(hashlib.sha256(b'[3, "part", "inert", 1, "a"]').hexdigest()[:32], 16))).random(),
    }
    assert first.generator("a").random() == expected[0, "a"] and second.generator("a").random() == expected[1, "a"]
    assert first.generator("a").random() != expected[0, "a"]  # it goes on, it does not start again


def test_strategies_of_one_seed_share_stream_and_initial_weights(run_of, small):
    runs = [run_of(*small, f"strategy={name}") for name in ("naive", "replay", "ncm", "naive+fpf")]
    assert len({r.weights_digest() for r in runs}) == 1 and len({r.stream.fingerprint for r in runs}) == 1
    other = run_of(*small, "seed=1")
    assert other.weights_digest() != runs[0].weights_digest() and other.stream.fingerprint != runs[0].stream.fingerprint


def test_initial_weights_do_not_depend_on_the_default_generators_nor_move_them(run_of, small):
    torch.manual_seed(1)
    first = run_of(*small).weights_digest()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert run_of(*small).weights_digest() == first
    torch.set_rng_state(state)
    run_of(*small)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_thread_count_is_the_cell_s_own_and_restored(cell_of, small):
    before = torch.get_num_threads()
    seen = []

    class Looks(Modifier):
        def setup(self):
            seen.append(torch.get_num_threads())

    for threads in (2, 1):
        run_cell(cell_of(*small, f"training.threads={threads}", parts=[cell_of(*small).parts[0], Looks()]))
    assert seen == [2, 1] and torch.get_num_threads() == before

    class Fails(Modifier):
        def after_step(self):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_cell(cell_of(*small, "training.threads=2", parts=[cell_of(*small).parts[0], Fails()]))
    assert torch.get_num_threads() == before
