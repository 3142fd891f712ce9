"""Every built-in strategy does what its source says: losses, gradients and rules by hand, on the same samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clsuite
from clsuite import registry
from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.spec import resolve
from clsuite.memory import Memory
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop
from clsuite.training.sampling import batches

pytestmark = pytest.mark.unit


# -- helpers ----------------------------------------------------------------------------------------------------


def loop_of(run, on_step=None):
    return Loop(run, Checkpoints(None, "", {}), on_step=on_step)


def execute(run, on_step=None):
    loop = loop_of(run, on_step)
    loop.execute()
    return loop


def begun(run):
    """A run at its first step, and the batch of that step."""
    loop = loop_of(run)
    run.model.train()
    for part in run.parts:
        part.setup()
    loop._begin()
    batch, _ = next(batches(run, run.plan_of(0)))
    return loop, batch


@pytest.fixture
def spy(register):
    """A modifier of that name whose hooks are functions of the test."""
    return lambda name="spy", **hooks: register(name, type(name.title(), (Modifier,), hooks))


@pytest.fixture
def draws(monkeypatch):
    """Every batch that a memory gave, in order."""
    drawn, real = [], Memory.sample

    def sample(self, *arguments):
        drawn.append(real(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(Memory, "sample", sample)
    return drawn


def before_updates(run, see):
    """Call `see(loss, optimizer)` before every update."""
    real = run.update

    def update(loss, optimizer=None):
        see(loss, optimizer)
        real(loss, optimizer)

    run.update = update


def pixels(run, ids, split="train"):
    """Inputs of samples, from the source alone: grey images in 0..1, colour images by the mean and deviation of the data."""
    source = run.stream.source
    x = source.images(split)[np.asarray(ids)] / 255.0
    if source.shape[0] == 3:
        every = source.images("train") / 255.0
        x = (x - every.mean((0, 2, 3), keepdims=True)) / every.std((0, 2, 3), keepdims=True)
    return torch.from_numpy(x).to(next(run.model.parameters()).dtype)


def labels(run, ids, split="train"):
    return torch.from_numpy(run.stream.source.labels(split)[np.asarray(ids)]).long()


def crossed(run, ids):
    """The mean cross-entropy of samples, by hand."""
    logits = run.model(pixels(run, ids))
    return F.cross_entropy(logits, labels(run, ids))


def close(a, b, tolerance=1e-5):
    return a.item() == pytest.approx(b if isinstance(b, float) else b.item(), rel=tolerance, abs=1e-8)


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def buffers(run):
    return {name: b.detach().clone() for name, b in run.model.named_buffers()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def refused(call):
    with pytest.raises(UsageError) as error:
        call()
    text = str(error.value)
    assert text and "\n" not in text
    return text


def same(a, b):
    return all(a[key] == b[key] for key in ("weights_sha256", "metrics", "matrix", "initial_accuracy"))


COLOUR = ["model=resnet20", "device=cpu", "scenario.experiences=2", "training.batch_size=14", "training.epochs=1", "training.learning_rate=0.05"]
"""ResNet-20 on the `tiny` images: two experiences of three classes, three steps each."""


@pytest.fixture
def colour(run_of, tiny):
    return lambda *overrides: run_of(*COLOUR, *overrides, scenario={"dataset": tiny.name})


@pytest.fixture
def weight_file(tmp_path, colour):
    """Pretrained weights of a ResNet-20: those of another seed."""
    from safetensors.torch import save_file

    path = tmp_path / "own.safetensors"
    save_file({name: t.contiguous() for name, t in colour("seed=99").model.state_dict().items()}, path)
    return f"model.weights={path}"


# -- replay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_a_replay_step_is_one_mean_over_all_samples_or_the_sum_of_two(combine, run_of, small, spy, draws):
    current, seen = [], []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=replay+spy", "strategy.buffer_size=30", "strategy.replay_batch=7", f"strategy.combine={combine}")

    def see(loss, optimizer):
        replayed = draws[-1].ids.numpy() if draws else np.zeros(0, int)
        assert len(draws) == len(current) - 1  # the first step finds an empty memory; later ones draw once
        if not draws or combine == "concat":
            expected = crossed(run, np.concatenate([current[-1], replayed]))
        else:
            expected = crossed(run, current[-1]) + crossed(run, replayed)
        assert close(loss, expected)
        seen.append(len(replayed))

    before_updates(run, see)
    execute(run)
    assert seen == [0] + [7] * 25


def test_replay_draws_as_many_samples_as_the_batch_has_by_default(run_of, small, draws):
    run = run_of(*small, "strategy=replay", "strategy.buffer_size=100")
    sizes = []
    before_updates(run, lambda loss, optimizer: sizes.append(len(draws[-1]) if draws else 0))
    execute(run)
    # experience 0: 80 samples in steps of 16; 1 and 2: 60 samples, the last step of an epoch has 12 current ones
    assert sizes == [0, *[16] * 25]  # the full number also beside the short last step


@pytest.mark.parametrize("insert", ["first_epoch", "always", "experience_end"])
def test_the_memory_is_sampled_before_current_samples_enter_it(insert, run_of, small, spy, draws, monkeypatch):
    stepped, added, real = [], [], Memory.add
    spy(before_step=lambda self, batch: stepped.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=replay+spy", "strategy.buffer_size=1000", f"strategy.insert={insert}")

    def add(self, ids, *arguments):
        added.append((len(stepped), ids.copy()))
        real(self, ids, *arguments)

    monkeypatch.setattr(Memory, "add", add)
    before_updates(run, lambda loss, optimizer: known.append([i for _, ids in added for i in ids]))
    known = []
    execute(run)
    steps = [step for step, _ in added]
    if insert == "first_epoch":  # epochs of 5, 4 and 4 steps
        assert steps == [1, 2, 3, 4, 5, 11, 12, 13, 14, 19, 20, 21, 22]
    elif insert == "always":
        assert steps == list(range(1, 27))
    else:
        assert steps == [10, 18, 26]
    if insert != "experience_end":
        for step, ids in added:
            assert np.array_equal(ids, stepped[step - 1])  # current samples only, although the step also replayed
    full = [ids for ids in known if ids]
    assert len(draws) == len(full) > 0
    for batch, ids in zip(draws, full, strict=True):
        assert set(batch.ids.tolist()) <= set(ids)
    if insert == "first_epoch":
        assert sorted(run.memories["replay"].ids) == sorted(np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences]))


@pytest.mark.parametrize("base", ["replay", "der", "derpp", "naive+fpf"])
@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "experience_balanced"])
def test_the_buffer_setting_reaches_the_memory(base, policy, run_of, small):
    where = "strategy.fpf" if "fpf" in base else "strategy"
    memory = run_of(*small, f"strategy={base}", f"{where}.buffer={policy}", f"{where}.buffer_size=33").memories["replay"]
    assert (memory.policy, memory.capacity) == (policy, 33)


# -- DER --------------------------------------------------------------------------------------------------------


def watch_dark(run, draws, current, beta):
    """Check the loss of every step of `der` or `derpp` by hand; returns the logits stored by id and the numbers of draws."""
    stored, counts = {}, []

    def see(loss, optimizer):
        with torch.no_grad():
            now = run.model(pixels(run, current[-1]))
        for i, row in zip(current[-1], now, strict=True):
            stored.setdefault(int(i), row)  # every sample passes once in the first epoch
        expected = crossed(run, current[-1])
        counts.append(len(draws))
        if draws:
            old = torch.stack([stored[int(i)] for i in draws[0].ids])
            expected = expected + 0.7 * (run.model(pixels(run, draws[0].ids)) - old).square().sum() / old.numel()
        if len(draws) > 1:
            expected = expected + beta * crossed(run, draws[1].ids)
            independent.append(draws[0].ids.tolist() != draws[1].ids.tolist())
        assert close(loss, expected)
        draws.clear()

    independent = []
    before_updates(run, see)
    execute(run)
    assert all(independent)
    return stored, counts


def test_der_is_cross_entropy_plus_alpha_times_the_squared_distance_to_stored_logits(run_of, small, spy, draws):
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=der+spy", "strategy.buffer_size=40", "strategy.alpha=0.7", "strategy.replay_batch=9")
    _, counts = watch_dark(run, draws, current, None)
    assert counts == [0, *[1] * 25]


def test_derpp_adds_beta_times_the_cross_entropy_of_a_second_draw(run_of, small, spy, draws):
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=derpp+spy", "strategy.buffer_size=40", "strategy.alpha=0.7", "strategy.beta=0.3", "strategy.replay_batch=9")
    stored, counts = watch_dark(run, draws, current, 0.3)
    assert counts == [0, *[2] * 25]
    memory = run.memories["replay"]
    kept = torch.stack([stored[int(i)] for i in memory.ids])
    torch.testing.assert_close(memory.columns["logits"][: len(memory)], kept, rtol=1e-5, atol=1e-6)


def test_der_has_no_beta(run_of, small):
    assert "unknown setting 'strategy.beta'" in refused(lambda: run_of(*small, "strategy=der", "strategy.beta=0.5"))


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_stored_logits_are_unmasked_and_those_of_the_training_pass(name, colour, spy):
    current, first = [], []
    spy(before_step=lambda self, batch: (current.append(batch.ids.tolist()), first.append(None)))
    run = colour(f"strategy={name}+spy", "strategy.buffer_size=200", "training.logit_mask=experience", "training.augmentation=[crop,flip]")

    def see(module, arguments, logits):
        if module.training and first and first[-1] is None:  # the current samples come first in a step
            first[-1] = logits.detach().clone()

    run.model.register_forward_hook(see)
    execute(run)
    said = {i: row for ids, rows in zip(current, first, strict=True) for i, row in zip(ids, rows, strict=True)}
    memory = run.memories["replay"]
    assert len(memory) == 84
    for i, row in zip(memory.ids, memory.columns["logits"], strict=False):
        assert torch.equal(row, said[int(i)]) and torch.isfinite(row).all() and row.abs().min() > 0


# -- references -------------------------------------------------------------------------------------------------


def trained_on(run_of, small, spy, name):
    """For every experience: the weights it began with, those it ended with, and how often each sample was seen."""
    began, ended, seen = [], [], []
    spy(
        before_experience=lambda self, e: (began.append(weights(self.run)), seen.append([])),
        before_step=lambda self, batch: seen[-1].extend(batch.ids.tolist()),
        after_experience=lambda self, e: ended.append(weights(self.run)),
    )
    run = run_of(*small, f"strategy={name}+spy")
    initial = weights(run)
    execute(run)
    own = [sorted(run.stream.ids(e.segments).tolist()) for e in run.stream.experiences]
    return initial, began, ended, seen, own


@pytest.mark.parametrize("name", ["joint", "cumulative", "naive"])
def test_what_the_references_train_on_and_start_from(name, run_of, small, spy):
    initial, began, ended, seen, own = trained_on(run_of, small, spy, name)
    for i in range(3):
        data = own[i] if name == "naive" else list(itertools.chain(*own[: i + 1]))
        assert sorted(seen[i]) == sorted(data * 2)  # two epochs
        expected = initial if name == "joint" or i == 0 else ended[i - 1]
        assert not moved(began[i], expected)
    assert moved(ended[1], ended[2]) == set(initial)


@pytest.mark.parametrize("experiences", [50, 51])
def test_joint_trains_long_streams_only_at_the_end(experiences, run_of):
    rng = np.random.default_rng(0)
    y = np.arange(experiences).repeat(2)
    x = rng.integers(0, 255, (len(y), 4, 4, 1)).astype(np.uint8)
    data = clsuite.images(x, y, x, y)
    run = run_of("strategy=joint", f"scenario.experiences={experiences}", "device=cpu", scenario={"dataset": data.name})
    plans = [run.plan_of(i) for i in range(experiences)]
    assert [plan.epochs > 0 for plan in plans[:-1]] == [experiences == 50] * (experiences - 1)
    assert plans[-1].epochs > 0 and plans[-1].fresh_model and plans[-1].samples == 2 * experiences


# -- GDumb ------------------------------------------------------------------------------------------------------

GDUMB = ["strategy.buffer_size=25", "strategy.memory_epochs=4", "strategy.memory_batch=8"]


def test_gdumb_keeps_a_class_balanced_memory_and_never_steps_on_the_stream(run_of, small, spy):
    counts = []
    spy(after_experience=lambda self, e: counts.append(np.unique(self.memory.labels, return_counts=True)[1]))
    run = run_of(*small, "strategy=gdumb+spy", *GDUMB)
    changed = []
    run_before = weights(run)
    execute(run, on_step=lambda r: changed.append(bool(moved(run_before, weights(r)))) if r.experience == 0 else None)
    assert [len(c) for c in counts] == [4, 7, 10]
    assert all(c.sum() == 25 and c.max() - c.min() <= 1 for c in counts)
    assert run.step == 0 and len(changed) == 5 and not any(changed)  # one pass over 80 samples
    assert run.costs["training"].gradient_steps == 3 * 4 * math.ceil(25 / 8)


def test_gdumb_forgets_the_model_it_had(cell_of, small, spy):
    spy(name="noise", before_experience=lambda self, e: [p.data.normal_() for p in self.model.parameters()] and None)
    plain = run_cell(cell_of(*small, "strategy=gdumb", *GDUMB))
    noisy = run_cell(cell_of(*small, "strategy=gdumb+noise", *GDUMB))
    assert same(plain, noisy)


def test_gdumb_learns_what_it_remembers(cell_of, small):
    result = run_cell(cell_of(*small, "strategy=gdumb", "strategy.buffer_size=100", "strategy.memory_epochs=30"))
    assert result["metrics"]["final_accuracy"] > 0.6  # ten classes of ten samples


def test_gdumb_learns_nothing_but_its_memory(run_of, small):
    run = run_of(*small, "strategy=gdumb", *GDUMB)
    gathered = []
    real = run.stream.gather
    run.stream.gather = lambda ids, split="train": (gathered.append(set(ids.tolist())) if split == "train" else None, real(ids, split))[1]
    execute(run)
    late = gathered[-4 * math.ceil(25 / 8) :]
    assert set().union(*late) == set(run.memories["replay"].ids.tolist()) and len(gathered) == 3 * len(late)


# -- nearest class mean -----------------------------------------------------------------------------------------


def numpy_nearest_mean(run, test_ids):
    """Distances [samples, classes] to class means of normalised features of an MLP, in numpy."""
    layers = [(p["weight"].double().numpy(), p["bias"].double().numpy()) for p in ({k: v.detach() for k, v in m.named_parameters()} for m in run.model.hidden)]

    def features(x):
        h = x.double().flatten(1).numpy()
        for weight, bias in layers:
            h = np.maximum(h @ weight.T + bias, 0)
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    ids = np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences])
    h, y = features(pixels(run, ids)), labels(run, ids).numpy()
    means = np.stack([h[y == c].mean(0) for c in range(10)])
    return np.linalg.norm(features(pixels(run, test_ids, "test"))[:, None] - means, axis=2)


@pytest.mark.parametrize("encoder", ["random", "first_experience"])
def test_ncm_predicts_the_nearest_mean_of_normalised_features(encoder, run_of, small):
    run = run_of(*small, "strategy=ncm", f"strategy.encoder={encoder}")
    initial = weights(run)
    ended = {}
    loop = execute(run, on_step=lambda r: ended.update({r.experience: weights(r)}))
    test = np.arange(run.stream.source.size("test"))
    distances = numpy_nearest_mean(run, test)
    run.model.eval()
    with torch.no_grad():
        scores = run.base.predict(pixels(run, test, "test")).numpy()
    np.testing.assert_allclose(scores, -distances, atol=1e-5)
    y = run.stream.source.labels("test")
    hits = [(distances[e.indices].argmin(1) == y[e.indices]).mean() for e in run.stream.evaluation_sets]
    np.testing.assert_allclose(loop.measurements.R[-1], hits, atol=1e-9)
    assert run.base.label() == f"ncm (encoder: {encoder})"
    if encoder == "random":
        assert run.costs["training"].gradient_steps == 0 and not moved(initial, weights(run))
    else:
        assert run.costs["training"].gradient_steps == 10 and list(ended) == [0]  # the steps of experience 0
        assert moved(initial, ended[0]) and not moved(ended[0], weights(run))


def test_ncm_with_pretrained_weights_trains_nothing(run_of, tiny, weight_file):
    run = run_of(*COLOUR, weight_file, "strategy=ncm", scenario={"dataset": tiny.name})
    before = run.weights_digest()
    loop = execute(run)
    assert run.base.label() == "ncm (encoder: pretrained)" and run.base.report() == {"encoder": "pretrained"}
    assert run.weights_digest() == before and run.costs["training"].gradient_steps == 0
    assert np.isfinite(loop.measurements.R).all()


def test_ncm_without_a_choice_or_weights_learns_its_encoder_and_says_so(cell_of, small):
    assert run_cell(cell_of(*small, "strategy=ncm"))["strategy"] == "ncm (encoder: first_experience)"


def test_ncm_refuses_an_encoder_that_is_not_there(cell_of, small):
    text = refused(lambda: run_cell(cell_of(*small, "strategy=ncm", "strategy.encoder=pretrained")))
    assert "strategy.encoder" in text and "first_experience, random" in text


# -- FPF --------------------------------------------------------------------------------------------------------

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


# -- refresh ----------------------------------------------------------------------------------------------------

REFRESH = ["strategy=naive+refresh", "strategy.refresh.fisher_samples=12"]


def gradient_by_hand(run, ids):
    gradients = torch.autograd.grad(crossed(run, ids), list(run.model.parameters()))
    return dict(zip(weights(run), gradients, strict=True))


@pytest.mark.parametrize(("arm", "sign"), [("ascent", 1), ("descent", -1)])
@pytest.mark.parametrize("fisher", [0.0, 500.0])
def test_unlearning_moves_every_tensor_by_the_same_share_along_its_gradient(arm, sign, fisher, run_of, small):
    run = run_of(
        *small, *REFRESH, f"strategy.refresh.arm={arm}", "strategy.refresh.noise=0.0", "strategy.refresh.unlearn_step=0.002", "training.precision=float64"
    )
    _, batch = begun(run)
    run.model.hidden[0].bias.data.zero_()
    refresh = run.parts[1]
    refresh.fisher = [torch.full_like(p, fisher) for p in run.model.parameters()]
    before, gradient = weights(run), gradient_by_hand(run, batch.ids)
    refresh.unlearn(batch)
    after = weights(run)
    assert torch.equal(after["hidden.0.bias"], before["hidden.0.bias"])  # a tensor of zeros has no scale to move by
    for name in before.keys() - {"hidden.0.bias"}:
        change, g = after[name] - before[name], gradient[name]
        expected = sign * 0.002 / (1 + 0.001 * fisher) * before[name].norm() * g / g.norm()
        torch.testing.assert_close(change, expected, rtol=1e-7, atol=1e-12)
        if not fisher:
            assert close(change.norm() / before[name].norm(), 0.002)


def test_the_noise_arm_moves_by_scaled_noise_alone(run_of, small):
    run = run_of(
        *small, *REFRESH, "strategy.refresh.arm=noise", "strategy.refresh.noise=0.5", "strategy.refresh.unlearn_step=0.01", "training.precision=float64"
    )
    _, batch = begun(run)
    before, passes = weights(run), run.cost.forward_passes
    run.parts[1].unlearn(batch)
    change = torch.cat([(weights(run)[name] - before[name]).flatten() for name in before])
    assert abs(float(change.std()) / (0.5 * 0.01) - 1) < 0.05 and abs(float(change.mean())) < 0.005 * 5 / len(change) ** 0.5
    assert run.cost.forward_passes == passes


def test_refresh_unlearns_the_current_batch_before_each_step(run_of, small, monkeypatch):
    kind, order = registry.load("strategies", "refresh"), []
    monkeypatch.setattr(kind, "unlearn", lambda self, batch: order.append(("unlearn", len(batch))))
    run = run_of(*small, *REFRESH, "strategy.refresh.steps=2")
    before_updates(run, lambda loss, optimizer: order.append("update"))
    execute(run)
    assert order[:6] == [("unlearn", 16), ("unlearn", 16), "update"] * 2 and len(order) == 3 * 26


@pytest.mark.parametrize("base", ["naive", "derpp"])
def test_refresh_switched_off_is_the_plain_base(base, cell_of, small):
    plain = run_cell(cell_of(*small, f"strategy={base}"))
    off = run_cell(cell_of(*small, f"strategy={base}+refresh", "strategy.refresh.fisher_samples=12", "strategy.refresh.arm=off"))
    on = run_cell(cell_of(*small, f"strategy={base}+refresh", "strategy.refresh.fisher_samples=12", "strategy.refresh.unlearn_step=0.01"))
    assert same(plain, off) and plain["weights_sha256"] != on["weights_sha256"]


def test_refresh_with_an_empty_step_is_the_plain_base_too(colour):
    plain = colour("strategy=naive")
    still = colour(*REFRESH, "strategy.refresh.unlearn_step=0.0")
    execute(plain), execute(still)
    assert plain.weights_digest() == still.weights_digest()


@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_fisher_information_is_that_of_a_loop_over_samples(model, run_of, small, colour):
    run = run_of(*small, *REFRESH, "training.precision=float64") if model == "mlp" else colour(*REFRESH, "training.precision=float64")
    loop, batch = begun(run)
    loop._train_on(batch, True)
    ids = np.random.default_rng(0).choice(run.stream.ids(run.stream.experiences[0].segments), 7, replace=False)
    state = {**weights(run), **buffers(run)}
    estimate = run.parts[1].estimate(ids)
    assert not moved(state, {**weights(run), **buffers(run)}) and run.model.training
    run.model.eval()
    expected = [torch.zeros_like(p) for p in run.model.parameters()]
    for x, y in zip(pixels(run, ids), labels(run, ids), strict=True):
        log_p = run.model(x[None]).log_softmax(1)[0, y]
        for total, g in zip(expected, torch.autograd.grad(log_p, list(run.model.parameters())), strict=True):
            total += log_p.detach().exp() * g**2 / len(ids)
    for found, value in zip(estimate, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-12)


def test_fisher_information_decays_to_a_hundred_thousandth_at_a_border(run_of, small, monkeypatch):
    run = run_of(*small, *REFRESH)
    begun(run)
    refresh = run.parts[1]
    monkeypatch.setattr(type(refresh), "estimate", lambda self, ids: [torch.full_like(p, 2.0 if len(ids) == 12 else math.nan) for p in self.model.parameters()])
    assert not any(value.any() for value in refresh.fisher)  # none in the first experience
    for experience, expected in zip(run.stream.experiences, (2.0, 2.0 + 2e-5, 2.0 + 2.00002e-5), strict=True):
        refresh.after_experience(experience)
        assert all(torch.allclose(value, torch.full_like(value, expected), rtol=1e-7, atol=0) for value in refresh.fisher)


@pytest.mark.parametrize("modifier", ["refresh", "sensitivity"])
@pytest.mark.parametrize("base", ["ncm", "gdumb", "joint"])
def test_what_acts_on_single_steps_is_refused_around_a_base_that_does_not_take_them(base, modifier, run_of, small):
    text = refused(lambda: run_of(*small, f"strategy={base}+{modifier}"))
    assert base in text and modifier in text


def test_unlearning_leaves_running_statistics_alone(colour):
    run = colour(*REFRESH, "strategy.refresh.unlearn_step=0.01")
    _, batch = begun(run)
    before, old = buffers(run), weights(run)
    run.parts[1].unlearn(batch)
    assert not moved(before, buffers(run)) and moved(old, weights(run))


# -- slow learner -----------------------------------------------------------------------------------------------


def rates(run, spy_log):
    names = {id(p): name for name, p in run.model.named_parameters()}
    return [{names[id(p)]: g["lr"] for g in groups for p in g["params"]} for groups in spy_log]


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_backbone_learns_slowly_once_it_knows_something(pretrained, run_of, tiny, weight_file, spy):
    log = []
    spy(before_experience=lambda self, e: log.append(self.run.optimizer.param_groups))
    files = [weight_file] if pretrained else []
    run = run_of(*COLOUR, *files, "strategy=naive+slow_learner+spy", "strategy.slow_learner.backbone_rate=0.003", scenario={"dataset": tiny.name})
    execute(run)
    first, second = rates(run, log)
    head = {"head.weight", "head.bias"}
    assert second == {name: 0.05 if name in head else 0.003 for name in weights(run)}
    assert first == (second if pretrained else dict.fromkeys(weights(run), 0.05))
    assert run.parts[1].label() == f"slow_learner (from {'pretrained' if pretrained else 'first_experience'})"


def test_a_slow_learner_that_would_never_be_slow_is_refused(cell_of, small):
    assert "slow_learner" in refused(lambda: run_cell(cell_of(*small, "strategy=joint+slow_learner")))


def test_a_backbone_rate_of_zero_keeps_the_backbone(run_of, small, spy):
    ended = []
    spy(after_experience=lambda self, e: ended.append(weights(self.run)))
    run = run_of(*small, "strategy=naive+slow_learner+spy", "strategy.slow_learner.backbone_rate=0.0", "training.momentum=0.9")
    execute(run)
    assert moved(ended[0], ended[1]) == moved(ended[1], ended[2]) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("choice", ["frozen", "follow"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_running_statistics_of_a_slow_backbone_stay_or_follow(choice, pretrained, run_of, tiny, weight_file, spy):
    states = []
    spy(before_experience=lambda self, e: states.append(buffers(self.run)), end=lambda self: states.append(buffers(self.run)))
    files = [weight_file] if pretrained else []
    run = run_of(*COLOUR, *files, "strategy=naive+slow_learner+spy", f"strategy.slow_learner.batch_norm={choice}", scenario={"dataset": tiny.name})
    execute(run)
    first, second = moved(states[0], states[1]), moved(states[1], states[2])
    assert bool(second) == (choice == "follow")
    assert bool(first) == (choice == "follow" or not pretrained)


@pytest.mark.parametrize("keep", [True, False])
def test_heads_of_earlier_classes_can_be_kept_exactly(keep, run_of, small, spy):
    ended, steps = [], []
    spy(after_experience=lambda self, e: ended.append(weights(self.run)))
    settings = [f"strategy.slow_learner.keep_old_heads={str(keep).lower()}", "training.weight_decay=0.01", "training.momentum=0.9"]
    run = run_of(*small, "strategy=naive+slow_learner+spy", *settings, "training.logit_mask=experience")
    execute(run, on_step=lambda r: steps.append((r.experience, r.model.head.weight.detach().clone())))
    old, new = list(run.stream.experiences[0].classes), list(run.stream.experiences[1].classes)
    still = [torch.equal(w[old], ended[0]["head.weight"][old]) for i, w in steps if i > 0]
    assert all(still) if keep else not any(still)
    assert torch.equal(ended[2]["head.bias"][old + new], torch.cat([ended[0]["head.bias"][old], ended[1]["head.bias"][new]])) == keep
    rest = list(run.stream.experiences[2].classes)
    assert not torch.equal(ended[2]["head.weight"][rest], ended[1]["head.weight"][rest])


# -- alignment --------------------------------------------------------------------------------------------------

ALIGN = ["strategy.alignment.samples_per_class=20", "strategy.alignment.batch_size=32", "strategy.alignment.epochs=3"]


def head(run):
    return torch.cat([p.detach().flatten() for p in run.model.head.parameters()]).clone()


def test_an_aligned_head_is_deployed_and_taken_back(run_of, small, spy):
    outer, inner, rows = [], [], []
    spy("outer", before_evaluation=lambda self: outer.append(head(self.run)), after_evaluation=lambda self: outer.append(head(self.run)))

    def deployed(self):
        inner.append(head(self.run))
        rows.append((self.run.experience, weights(self.run)))

    spy("inner", before_evaluation=deployed)
    run = run_of(*small, "strategy=naive+outer+alignment+inner", *ALIGN)
    execute(run)
    for i in range(3):
        before, aligned, after = outer[2 * i], inner[i], outer[2 * i + 1]
        assert torch.equal(before, after)
        assert torch.equal(before, aligned) == (i == 0)  # none in experience 0
    unseen = list(run.stream.experiences[2].classes)
    aligned, before = inner[1].view(-1)[: 10 * 20].view(10, 20), outer[2].view(-1)[: 10 * 20].view(10, 20)
    assert torch.equal(aligned[unseen], before[unseen])  # rows of classes nobody has seen take no part


def test_alignment_changes_what_is_measured_and_nothing_that_is_trained(cell_of, small):
    plain = run_cell(cell_of(*small, "strategy=naive"))
    aligned = run_cell(cell_of(*small, "strategy=naive+alignment", *ALIGN))
    assert aligned["weights_sha256"] == plain["weights_sha256"]
    assert aligned["matrix"][0] == plain["matrix"][0]
    assert aligned["metrics"]["final_accuracy"] > plain["metrics"]["final_accuracy"] + 0.1  # naive knows three classes at the end
    assert aligned["cost"]["gradient_steps"] == plain["cost"]["gradient_steps"]
    # 7 and 10 classes of 20 drawn features, batches of 32, 3 epochs
    assert aligned["cost"]["deployment"]["gradient_steps"] == 3 * (math.ceil(140 / 32) + math.ceil(200 / 32))


def test_class_statistics_are_numpy_s_on_plain_features_when_a_class_was_learned(run_of, small, spy):
    known = {}

    def gather(self, experience):
        with torch.no_grad():
            for c in experience.classes:
                ids = np.flatnonzero(self.run.stream.source.labels("train") == c)
                ids = np.intersect1d(ids, self.run.stream.ids(experience.segments))
                h = self.model.features(pixels(self.run, ids)).double().numpy()
                known[c] = (h.mean(0), np.cov(h, rowvar=False) + 1e-4 * np.eye(20), experience.index)

    spy(after_experience=gather)
    run = run_of(*small, "strategy=naive+alignment+spy", *ALIGN, "training.augmentation=[crop,flip]")
    execute(run)
    part = run.parts[1]
    assert sorted(part.means) == sorted(known) == list(range(10))
    for c, (mean, covariance, learned) in known.items():
        np.testing.assert_allclose(part.means[c], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(part.factors[c] @ part.factors[c].T, covariance, rtol=1e-3, atol=1e-5)
        assert part.learned_in[c] == learned


class Flat:
    """A generator of nothing but zeros, in order."""

    standard_normal = staticmethod(np.zeros)
    permutation = staticmethod(np.arange)


@pytest.mark.parametrize("shrink", [True, False])
def test_means_of_older_classes_are_shrunk(shrink, run_of, small):
    run = run_of(*small, "strategy=naive+alignment", *ALIGN, f"strategy.alignment.shrink_old_means={str(shrink).lower()}")
    execute(run)
    run.progress.position.experience = 2
    part = run.parts[1]
    x, places = part.draw(Flat)
    scale = {0: 0.9 + 0.1 / 3, 1: 0.9 + 0.2 / 3, 2: 1.0} if shrink else dict.fromkeys(range(3), 1.0)
    for k, c in enumerate(part.means):
        assert (places == k).sum() == 20
        expected = scale[part.learned_in[c]] * part.means[c].float()
        torch.testing.assert_close(x[places == k], expected.expand(20, -1), rtol=1e-5, atol=1e-6)


def test_drawn_features_have_the_covariance_of_their_class(run_of, small):
    run = run_of(*small, "strategy=naive+alignment", *ALIGN)
    execute(run)
    run.progress.position.experience = 2
    part = run.parts[1]
    part.samples_per_class = 4000
    x, places = part.draw(np.random.default_rng(0))
    for k, c in enumerate(part.means):
        expected = (part.factors[c] @ part.factors[c].T).numpy()
        found = np.cov(x[places == k].double().numpy(), rowvar=False)
        assert np.abs(found - expected).max() < 0.12 * expected.max()


@pytest.mark.parametrize("temperature", [0.1, 0.5, None])
def test_the_loss_of_logit_normalisation_by_hand(temperature, run_of, small, monkeypatch):
    text = "null" if temperature is None else temperature
    run = run_of(*small, "strategy=naive+alignment", "strategy.alignment.epochs=1", f"strategy.alignment.temperature={text}", "training.precision=float64")
    begun(run)
    part, layer = run.parts[1], run.model.head
    run.progress.position.experience = 1
    # classes 7 and 2 from experience 0, class 4 from experience 1: two blocks
    part.means = {c: torch.zeros(20, dtype=torch.float64) for c in (7, 2, 4)}
    part.learned_in = {7: 0, 2: 0, 4: 1}
    part.samples_per_class, part.batch_size = 2, 6
    x, y = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 20))), torch.tensor([0, 1, 2, 2, 1, 0])
    monkeypatch.setattr(type(part), "draw", lambda self, rng: (x, y))
    W, b = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    losses = []
    for features, place in zip(x, y, strict=True):
        z7, z2, z4 = (W[c] @ features + b[c] for c in (7, 2, 4))
        n = ((z7**2 + z2**2).sqrt() + (z4**2).sqrt()) / 2 + 1e-7
        z = torch.stack([z7, z2, z4])
        z = z if temperature is None else z / (n * temperature)
        losses.append(-z[place] + z.exp().sum().log())
    expected = sum(losses) / 6
    gradients = torch.autograd.grad(expected, [W, b])
    seen = []
    before_updates(run, lambda loss, optimizer: seen.append(loss.item()))
    part.before_evaluation()
    assert seen == [pytest.approx(expected.item(), rel=1e-9)]
    torch.testing.assert_close(layer.weight.grad, gradients[0], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(layer.bias.grad, gradients[1], rtol=1e-7, atol=1e-10)


# -- sensitivity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["naive", "derpp"])
def test_sensitivity_changes_no_number(base, cell_of, small):
    assert same(run_cell(cell_of(*small, f"strategy={base}")), run_cell(cell_of(*small, f"strategy={base}+sensitivity")))


def test_the_sensitivity_ratio_by_hand(run_of, small):
    run = run_of(*small, "model.hidden=[20,12]", "strategy=naive+sensitivity", "strategy.sensitivity.snapshots=4")
    trail = [weights(run)]
    execute(run, on_step=lambda r: trail.append(weights(r)))
    # experiences of 10, 8 and 8 steps; quarters of 10 are rounded to even: 2, 5, 8, 10
    borders, at = {10, 18}, [0, 2, 5, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26]
    kinds = {"head": ["head.weight", "head.bias"], "first_layer": ["hidden.0.weight", "hidden.0.bias"], "block:hidden.1": ["hidden.1.weight", "hidden.1.bias"]}
    found = run.parts[1].report()
    assert found["ratio"].keys() == kinds.keys()
    for kind, names in kinds.items():
        change = {a: np.concatenate([(trail[b][n] - trail[a][n]).abs().flatten() for n in names]).mean() for a, b in itertools.pairwise(at)}
        across, within = ([d for a, d in change.items() if (a in borders) == wanted] for wanted in (True, False))
        assert found["ratio"][kind] == pytest.approx(np.mean(across) / np.mean(within), rel=1e-4)
        assert found["parameters"][kind] == sum(trail[0][n].numel() for n in names)
    assert list(found["ratio"].values()) == sorted(found["ratio"].values(), reverse=True)


# -- combinations -----------------------------------------------------------------------------------------------


def test_kfpf_is_plain_training_with_nine_fine_tunings():
    alias, long = resolve({"strategy": "kfpf"}), resolve({"strategy": {"name": "naive+fpf", "fpf": {"times": 9}}})
    assert alias.spec == long.spec and alias.spec["strategy"]["modifiers"][0]["times"] == 9


def test_slca_is_a_slow_learner_with_alignment_under_the_mask_of_its_experience():
    alias = resolve({"strategy": "slca"})
    long = resolve({"strategy": {"name": "naive+slow_learner+alignment", "slow_learner": {"keep_old_heads": True}}, "training": {"logit_mask": "experience"}})
    assert alias.spec == long.spec and alias.spec["training"]["logit_mask"] == "experience"
    assert resolve({"strategy": "slca", "training": {"logit_mask": "none"}}).spec["training"]["logit_mask"] == "none"


@pytest.mark.parametrize("name", ["kfpf", "slca"])
def test_a_combination_can_only_stand_first(name):
    assert "can only stand first" in refused(lambda: resolve({"strategy": f"replay+{name}"}))


def test_parts_with_a_memory_share_one_and_refuse_two_sizes(run_of, small):
    run = run_of(*small, "strategy=replay+fpf", "strategy.fpf.buffer_size=31")
    assert list(run.memories) == ["replay"] and run.memories["replay"].capacity == 31
    text = refused(lambda: run_of(*small, "strategy=replay+fpf", "strategy.buffer_size=30", "strategy.fpf.buffer_size=31"))
    assert "30" in text and "31" in text


NATIVE = {name: entry for name, entry in registry.catalogue("strategies").items() if entry.origin == "native"}
BASES = [name for name, entry in NATIVE.items() if entry.facts["kind"] == "strategy"]
MODIFIERS = [name for name, entry in NATIVE.items() if entry.facts["kind"] == "modifier"]
TEXT_ONLY = [name for name in MODIFIERS if NATIVE[name].facts.get("world") == "text"]

QUICK = [
    "scenario.dataset=digits",
    "scenario.experiences=2",
    "scenario.samples_per_class=6",
    "model.hidden=[8]",
    "training.epochs=2",
    "training.batch_size=10",
    "device=cpu",
]
QUICKER = {
    "fpf": {"steps_each": 2},
    "refresh": {"fisher_samples": 5},
    "alignment": {"epochs": 1, "samples_per_class": 5},
    "gdumb": {"memory_epochs": 2},
    "bic": {"bias_epochs": 2},
    "autolrs": {"candidates": 2, "least_trial": 3},
    "ewc": {"fisher_samples": 5},
    "mas": {"importance_samples": 5},
}


STEPWISE = ("refresh", "sensitivity", "slow_learner", "stream_replay", "dynamic_ema", "ewc", "si", "mas", "lwf", "agem")
REFUSED = {(base, modifier) for base in ("ncm", "slda", "gdumb", "joint", "downstream_only") for modifier in STEPWISE}
"""Pairs that cannot work: single steps of a base that takes none on the current experience; samples chosen where there is no choice."""
REFUSED |= {(base, modifier) for base in ("ncm", "slda", "bic", "gdumb", "downstream_only") for modifier in ("temperature_sampling", "skill_it")}
REFUSED |= {("gdumb", "autolrs"), *((base, modifier) for base in BASES for modifier in TEXT_ONLY)}
REFUSED |= {("cumulative", "stream_replay"), ("joint", "temperature_sampling"), ("cumulative", "temperature_sampling")}
REFUSED |= {("bic", "stream_replay"), ("bic", "dynamic_ema")}  # it holds samples out; it deploys a corrected head


def check_matrix(result):
    matrix = np.array(result["matrix"], dtype=float)
    assert result["status"] == "ok" and matrix.shape == (2, 2)
    if result["strategy"].startswith("downstream_only"):
        assert np.isnan(matrix[0]).all()
        matrix = matrix[1:]
    assert np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix <= 1).all()


@pytest.mark.parametrize("name", [*BASES, *(f"naive+{name}" for name in MODIFIERS if name not in TEXT_ONLY), *registry.aliases()])
def test_every_name_of_the_catalogue_gives_a_whole_matrix(name, cell_of):
    check_matrix(run_cell(cell_of(*QUICK, strategy={"name": name})))


@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("base", BASES)
def test_every_pair_runs_or_is_refused_in_one_line(base, modifier, cell_of):
    cell = cell_of(*QUICK, strategy={"name": f"{base}+{modifier}", modifier: QUICKER.get(modifier, {}), **(QUICKER.get(base, {}))})
    if (base, modifier) in REFUSED:
        refused(lambda: run_cell(cell))
    else:
        check_matrix(run_cell(cell))
