"""A run that is killed anywhere and started again gives bit for bit the numbers of a run that was never killed."""

from __future__ import annotations

import json

import pytest
import torch

from clsuite import registry
from clsuite.errors import Interrupted
from clsuite.experiment.cell import Options, run_cell
from clsuite.strategy import Modifier

from .killed_runs import Killed, check_killed, check_restored_state, keep_rhythm, numbers, run_killed, watching
from .text_parts import HALF, cell, instructed

pytestmark = pytest.mark.kill

STRATEGIES = {
    "naive": ["strategy=naive"],
    "joint": ["strategy=joint"],
    "cumulative": ["strategy=cumulative"],
    "replay": ["strategy=replay", "strategy.buffer_size=20", "strategy.buffer=class_balanced"],
    "der": ["strategy=der", "strategy.buffer_size=20"],
    "derpp": ["strategy=derpp", "strategy.buffer_size=20", "training.augmentation=[crop,flip,brightness]"],
    "gdumb": ["strategy=gdumb", "strategy.buffer_size=20", "strategy.memory_epochs=3"],
    "ncm": ["strategy=ncm"],
    "er_ace": ["strategy=er_ace", "strategy.buffer_size=20", "strategy.compete=present_and_unseen", "training.augmentation=[crop]"],
    "mir": ["strategy=mir", "strategy.buffer_size=20", "strategy.replay_batch=5", "training.augmentation=[crop]"],
    "icarl": ["strategy=icarl", "strategy.buffer_size=20", "strategy.mirrored_means=true", "training.augmentation=[crop]"],
    "bic": ["strategy=bic", "strategy.buffer_size=40", "strategy.bias_epochs=3", "training.augmentation=[crop]"],
    "wa": ["strategy=wa", "strategy.buffer_size=20", "training.augmentation=[crop]"],
    "slda": ["strategy=slda"],
    "fpf": ["strategy=replay+fpf", "strategy.buffer_size=20", "strategy.fpf.times=3", "strategy.fpf.steps_each=3", "strategy.fpf.distillation=0.5"],
    "refresh": ["strategy=derpp+refresh", "strategy.buffer_size=20", "strategy.refresh.fisher_samples=20", "strategy.refresh.unlearn_step=0.001"],
    "slow_learner": ["strategy=replay+slow_learner", "strategy.buffer_size=20", "strategy.slow_learner.keep_old_heads=true"],
    "alignment": ["strategy=naive+alignment", "strategy.alignment.epochs=2", "strategy.alignment.samples_per_class=20", "strategy.alignment.batch_size=32"],
    "sensitivity": ["strategy=naive+sensitivity"],
    "ewc": ["strategy=naive+ewc", "strategy.ewc.fisher_samples=20", "training.augmentation=[crop]"],
    "si": ["strategy=naive+si", "training.momentum=0.9"],
    "mas": ["strategy=naive+mas", "strategy.mas.importance_samples=20"],
    "lwf": ["strategy=replay+lwf", "strategy.buffer_size=20", "training.augmentation=[crop]"],
    "agem": ["strategy=naive+agem", "strategy.agem.buffer_size=20", "strategy.agem.reference_batch=10", "training.augmentation=[crop]"],
    "stream_replay": ["strategy=naive+stream_replay", "strategy.stream_replay.share=0.25"],
    "temperature_sampling": ["strategy=naive+temperature_sampling"],
    "skill_it": ["strategy=naive+skill_it", "strategy.skill_it.update_every=2", "strategy.skill_it.probe_samples=8"],
    "downstream_only": ["strategy=downstream_only"],
    "dynamic_ema": ["strategy=naive+dynamic_ema", "strategy.dynamic_ema.start=first_experience", "training.momentum=0.9"],
    "autolrs": [
        "strategy=naive+autolrs",
        "strategy.autolrs.candidates=2",
        "strategy.autolrs.least_trial=3",
        "strategy.autolrs.first_stage=4",
        "training.momentum=0.9",
    ],
}
"""Small settings of every built-in part: a modifier stands around a base. A new part needs its line here."""

ON_TEXT = {
    "half_fine_tuning": lambda checkpoints: cell(HALF, **FEW_STEPS, border_optimizer="keep"),
    "instruction_residual": lambda checkpoints: cell(**instructed(checkpoints), **FEW_STEPS),
}
"""The same for parts that act on language models only."""
FEW_STEPS = {"count": 3, "tokens": 384}
"""Three in each of three experiences."""

FORMS = {
    "replay, experience end": ["strategy=replay", "strategy.buffer_size=20", "strategy.insert=experience_end", "strategy.combine=sum"],
    "replay, always": ["strategy=replay", "strategy.buffer_size=20", "strategy.insert=always", "strategy.buffer=experience_balanced"],
    "fpf at evaluation": ["strategy=replay+fpf", "strategy.buffer_size=20", "strategy.fpf.when=evaluation", "strategy.fpf.steps_each=3"],
    "fpf of random weights": [
        "strategy=replay+fpf",
        "strategy.buffer_size=20",
        "strategy.fpf.period=7",
        "strategy.fpf.steps_each=2",
        "strategy.fpf.modules=random",
    ],
    "momentum kept": ["training.momentum=0.9", "training.border_optimizer=keep", "training.border_schedule=extend", "training.schedule.name=cosine"],
    "adam": ["training.optimizer=adam", "training.learning_rate=0.01", "training.clip_norm=0.5", "training.schedule.name=linear"],
    "ewc, online, of batches": ["strategy=naive+ewc", "strategy.ewc.mode=online", "strategy.ewc.decay=0.5", "strategy.ewc.fisher=batch"],
    "masks": ["strategy=replay", "strategy.buffer_size=20", "training.logit_mask=batch", "evaluation.mask=seen"],
    "probes": ["training.probe_every=3", "training.evaluate_every=2"],
    "all together": [
        "strategy=derpp+refresh+fpf+slow_learner+alignment",
        "strategy.buffer_size=20",
        "strategy.refresh.fisher_samples=10",
        "strategy.fpf.period=5",
        "strategy.fpf.steps_each=2",
        "strategy.alignment.epochs=1",
        "strategy.alignment.samples_per_class=10",
        "training.momentum=0.9",
    ],
}


@pytest.fixture
def killer(monkeypatch):
    return watching(monkeypatch)


def native(on_text):
    return sorted(
        name for name, entry in registry.catalogue("strategies").items() if entry.origin == "native" and (entry.facts.get("world") == "text") == on_text
    )


@pytest.mark.parametrize("rhythm", ["every step", "rare"])
@pytest.mark.parametrize("name", native(False))
def test_every_built_in_part_goes_on_exactly(name, rhythm, cell_of, small, tmp_path, killer, monkeypatch):
    assert name in STRATEGIES, f"'{name}' is in the catalogue but not in STRATEGIES of {__name__}: add small settings for it, so that its resume is tested"
    check_killed(lambda: cell_of(*small, *STRATEGIES[name]), tmp_path, killer, monkeypatch, rhythm)


@pytest.mark.parametrize("rhythm", ["every step", "rare"])
@pytest.mark.parametrize("name", native(True))
def test_every_built_in_part_of_language_models_goes_on_exactly(name, rhythm, checkpoints, tmp_path, killer, monkeypatch):
    assert name in ON_TEXT, f"'{name}' is in the catalogue but not in ON_TEXT of {__name__}: add small settings for it, so that its resume is tested"
    check_killed(lambda: ON_TEXT[name](checkpoints), tmp_path, killer, monkeypatch, rhythm, steps=3, updates=2)


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_go_on_exactly(form, cell_of, small, tmp_path, killer, monkeypatch):
    check_killed(lambda: cell_of(*small, *FORMS[form]), tmp_path, killer, monkeypatch, "rare")


def test_without_a_checkpoint_the_run_starts_over_with_the_same_numbers(cell_of, small, tmp_path, killer, monkeypatch):
    check_killed(lambda: cell_of(*small, *STRATEGIES["derpp"]), tmp_path, killer, monkeypatch, "never")


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("model", ["resnet20", "cnn"])
def test_networks_with_channels_last_and_running_statistics_go_on_exactly(model, optimizer, cell_of, tiny, tmp_path, killer, monkeypatch):
    raw = [
        f"model={model}",
        "device=cpu",
        "scenario.experiences=3",
        "strategy=derpp" if model == "resnet20" else "strategy=replay+fpf",
        "strategy.buffer_size=12",
        "training.batch_size=10",
        "training.epochs=2",
        "training.augmentation=[crop,flip]",
        "training.border_optimizer=keep",
        *(["training.optimizer=adam", "training.learning_rate=0.005"] if optimizer == "adam" else ["training.momentum=0.9", "training.weight_decay=0.001"]),
        *(["strategy.fpf.when=evaluation", "strategy.fpf.steps_each=2"] if model == "cnn" else []),
    ]
    check_killed(lambda: cell_of(*raw, scenario={"dataset": tiny.name}), tmp_path, killer, monkeypatch, "rare", steps=3, updates=2)


# -- hooks ------------------------------------------------------------------------------------------------------


class Fragile(Modifier):
    """Counts in its hooks, and dies in each of them the first time, after it has changed its state."""

    died = []

    def setup(self):
        self.calls = {}

    def _die_once(self, hook):
        self.calls[hook] = self.calls.get(hook, 0) + 1
        self.born_later = torch.full((2,), float(self.calls[hook]))
        with torch.no_grad():
            self.model.head.bias.add_(torch.from_numpy(self.generator(hook).random(self.run.classes)))
        if Fragile.died is not None and (hook, self.run.experience) not in Fragile.died:
            Fragile.died.append((hook, self.run.experience))
            raise Killed

    def before_experience(self, experience):
        self._die_once("before_experience")

    def after_experience(self, experience):
        self._die_once("after_experience")

    def end(self):
        self._die_once("end")

    def before_evaluation(self):
        self._die_once("before_evaluation")

    def after_evaluation(self):
        self._die_once("after_evaluation")

    def report(self):
        return self.calls


@pytest.mark.parametrize("rhythm", ["every step", "rare"])
def test_a_hook_that_was_interrupted_runs_again_from_the_state_before_it(rhythm, cell_of, small, tmp_path, killer, monkeypatch, register):
    register("fragile", Fragile)

    def cell():
        return cell_of(*small, "strategy=replay+fragile")

    monkeypatch.setattr(Fragile, "died", None)
    whole, _ = run_killed(cell, None, killer, ())
    monkeypatch.setattr(Fragile, "died", [])
    keep_rhythm(monkeypatch, rhythm)
    killed, deaths = run_killed(cell, tmp_path, killer, ())
    assert deaths == 3 * 4 + 1
    assert numbers(killed) == numbers(whole)
    assert killed["reports"]["fragile"] == {"before_experience": 3, "after_experience": 3, "end": 1, "before_evaluation": 3, "after_evaluation": 3}


class Freezes(Modifier):
    """Freezes the hidden layer once the optimizer stands."""

    def before_experience(self, experience):
        for p in self.model.hidden.parameters():
            p.requires_grad_(experience.index == 0)


class Forgets(Modifier):
    """Looks at the logits of every batch after its update, and learns nothing from them."""

    transient = frozenset({"_batch"})

    def before_step(self, batch):
        self._batch = batch

    def after_step(self):
        self.logits(self._batch)


@pytest.mark.parametrize("part", [Freezes, Forgets])
def test_what_a_part_did_to_the_run_between_steps_is_kept(part, cell_of, small, tmp_path, killer, monkeypatch, register):
    register("odd", part)
    check_killed(lambda: cell_of(*small, "strategy=naive+odd", "training.momentum=0.9"), tmp_path, killer, monkeypatch, "rare")


# -- asked to leave ---------------------------------------------------------------------------------------------


def test_a_run_that_is_asked_to_leave_leaves_a_checkpoint_and_goes_on(cell_of, small, tmp_path, monkeypatch):
    whole = run_cell(cell_of(*small, "strategy=replay"))
    resumed = check_restored_state(monkeypatch)
    left = []

    def ask(run):
        if run.step % 7 == 3 and run.step not in left:
            left.append(run.step)
            run.stop_requested = True

    while True:
        try:
            result = run_cell(cell_of(*small, "strategy=replay"), Options(tmp_path, 1e9, on_step=ask))
            break
        except Interrupted:
            pass
    assert left == resumed == [3, 10, 17, 24]  # not one step was done twice
    assert numbers(result) == numbers(whole)


def test_the_log_of_a_resumed_run_tells_every_row_once(cell_of, small, tmp_path, killer, monkeypatch):
    keep_rhythm(monkeypatch, "rare")
    result, _ = run_killed(lambda: cell_of(*small), tmp_path, killer, [("step", 1, 3), ("step", 2, 2), ("evaluate", 1)])
    lines = [json.loads(line) for line in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()]
    rows = [r for r in lines if r["event"] == "experience"]
    assert [r["experience"] for r in rows] == [0, 1, 2]
    assert [r["accuracy"] for r in rows] == result["matrix"]


def test_a_finished_cell_is_read_back_and_not_run_again(cell_of, small, tmp_path, killer):
    first = run_cell(cell_of(*small), Options(tmp_path))
    killer.seen.clear()
    assert run_cell(cell_of(*small), Options(tmp_path)) == json.loads(json.dumps(first))
    assert killer.seen == []
    again = run_cell(cell_of(*small), Options(tmp_path, rerun=True))
    assert killer.seen and numbers(again) == numbers(first)
