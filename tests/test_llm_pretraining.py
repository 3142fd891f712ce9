"""Continual pre-training: streams of windows, losses, borders, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clsuite
from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.overlap import check_disjoint
from clsuite.experiment.spec import resolve
from clsuite.training.loop import Loop
from clsuite.training.text_metrics import bump, downstream_area, forgetting

from .text_runs import gone_on, train_bare

pytestmark = pytest.mark.unit

TINY = {
    "scenario": {
        "name": "llm_pretraining",
        "corpora": ["synthetic:0", "synthetic:0:0.5"],
        "tokens": 6400,
        "context": 32,
        "validation_tokens": 1600,
        "probe_tokens": 320,
    },
    "model": {"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2},
    "training": {"batch_size": 8},
    "device": "cpu",
}


LLAMA = {**TINY["model"], "name": "llama"}


def tiny(**groups):
    return {**TINY, **{k: {**TINY.get(k, {}), **v} if isinstance(v, dict) else v for k, v in groups.items()}}


def test_every_token_of_a_corpus_is_a_target_once():
    stream = resolve(tiny(scenario={"tokens": 3200})).scenario.stream("evaluation", 0)
    source = stream.source
    tokens = source.corpora[1].tokens("train")
    first, last = source.starts("train")[1:3]
    targets = source.gather(np.arange(first, last), "train")[:, 1:].reshape(-1)
    assert np.array_equal(targets, tokens[1 : 1 + (last - first) * 32])


def test_an_experience_goes_through_its_corpus_before_it_repeats_a_window():
    scenario = resolve(tiny()).scenario
    count = scenario.stream("evaluation", 0).source.counts("train")[0]
    scenario.tokens = [int(1.5 * count) * 32, 3200]
    ids = scenario.stream("evaluation", 0).experiences[0].segments[0].indices
    assert sorted(ids[:count]) == list(range(count)) and len(set(ids[count:])) == len(ids) - count
    other = scenario.stream("evaluation", 1).experiences[0].segments[0].indices
    assert not np.array_equal(ids, other)


def test_the_phases_share_no_document():
    scenario = resolve(tiny(scenario={"corpora": ["python_reference"], "tokens": 3200}, protocol={"split": "samples"})).scenario
    streams = [scenario.stream(phase, 0) for phase in ("tuning", "evaluation")]
    check_disjoint(streams[:1], streams[1:])
    with pytest.raises(UsageError, match="share"):
        check_disjoint(streams[:1], streams[:1])


def test_the_loss_is_the_mean_over_tokens_and_the_matrix_that_of_the_fixed_windows():
    cell = resolve(tiny())
    run = make_run(cell, torch.device("cpu"))
    loop = Loop(run, _no_checkpoints())
    loop.execute()
    stream = run.stream
    run.model.eval()
    for j in range(2):
        x, y = stream.gather(torch.from_numpy(stream.evaluation_ids(j)), "test")
        with torch.no_grad():
            expected = float(F.cross_entropy(run.model(x).flatten(0, 1).double(), y.flatten()))
        assert loop.measurements.document()["matrix"][1][j] == pytest.approx(expected, rel=1e-5)


def test_one_corpus_alone_trains_as_a_loop_over_the_bare_network():
    # no biases: the gradient of a key's bias is rounding error, which Adam would blow up to a full step
    cell = resolve({**tiny(scenario={"corpora": ["synthetic:0"], "tokens": 3200}, training={"schedule": "constant"}), "model": LLAMA})
    run = make_run(cell, torch.device("cpu"))
    reference = make_run(resolve(cell.spec), torch.device("cpu"))
    Loop(run, _no_checkpoints()).execute()
    model, stream = reference.model, reference.stream
    train_bare(model, stream, stream.experiences[0].segments[0].indices)
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_rate_in_the_optimizer_after_a_border_is_that_of_the_schedule():
    cell = resolve(tiny(training={"schedule": {"name": "cosine", "minimum": 0.1, "warmup": 4}}))
    run = make_run(cell, torch.device("cpu"))
    rates = []
    Loop(run, _no_checkpoints(), on_step=lambda r: rates.append(sorted({g["lr"] for g in r.optimizer.param_groups}))).execute()
    steps = run.plan_of(0).steps
    assert rates[steps] == [3e-3 / 4] and rates[steps + 3] == [3e-3]
    assert rates[steps - 1] == pytest.approx([3e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (steps - 5) / (steps - 4))))])


def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path):
    raw = tiny(scenario={"tokens": 2560})
    whole = run_cell(resolve(raw))
    assert whole["cost"]["gradient_steps"] == 20
    for at in (1, 6, 10, 11, 16):
        again = gone_on(lambda: resolve(raw), tmp_path / str(at), at)
        for key in ("weights_sha256", "matrix", "loss_curve"):
            assert again[key] == whole[key]
        assert again["resume"] == "exact" and whole["metrics"]["forgetting"] == again["metrics"]["forgetting"]


def test_a_run_logs_the_rate_beside_the_loss(tmp_path):
    import json

    result = run_cell(resolve(tiny()), Options(tmp_path))
    name = result["cell"]
    records = [json.loads(line) for line in (tmp_path / "cells" / name[:2] / name / "metrics.jsonl").read_text().splitlines()]
    losses = [r for r in records if r["event"] == "loss"]
    assert len(losses) == 6 and all(r["learning_rate"] > 0 for r in losses)


def test_metrics_by_hand():
    windows = {(0, 0): np.array([2.0, 2.2]), (1, 0): np.array([2.5, 2.5]), (0, 1): np.array([3.0]), (1, 1): np.array([1.0])}
    f = np.array([0, 1])
    lost, error = forgetting(windows, f, 1)
    assert lost == pytest.approx(0.4) and error == pytest.approx(0.1)
    probes = [(1, s, [v, w], [2.0, 3.0], [0.01, 0.0]) for s, v, w in ((1, 2.1, 3.0), (2, 2.4, 2.0), (10, 1.9, 1.5), (20, 2.0, 1.2), (40, 1.8, 1.0))]
    found = bump(probes, f, [100, 100])
    assert found == {"bump": pytest.approx(0.4), "bump_error": pytest.approx(0.01), "bump_step": 2, "recovery_step": 10}
    # trapezoids by hand: 2.5, 8 x 1.75, 10 x 1.35, 20 x 1.1 over 39 steps
    assert downstream_area(probes, f, [100, 100]) == pytest.approx((2.5 + 14 + 13.5 + 22) / 39)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scenario": {"tokens": 10**9}}, r"scenario.tokens = 1000000000 goes more than 4 times .* valid: up to"),
        ({"scenario": {"tokens": [3200]}}, "1 budgets for 2 corpora"),
        ({"scenario": {"shift": "weak"}}, "exclude each other"),
        ({"scenario": {"tokens": 8}}, "less than one window"),
        ({"model": {"name": "mlp", "layers": 1}}, "unknown setting 'model.layers'"),
        ({"training": {"epochs": 2}}, "training.epochs = 2 is not possible for text"),
        ({"training": {"schedule": {"name": "cosine", "warmup": 25}}}, "training.schedule.warmup"),
        ({"training": {"schedule": {"name": "wsd", "shape": "inverse_linear"}}}, "training.schedule.minimum"),
        ({"training": {"schedule": {"name": "power"}}}, "must equal training.schedule.peak"),
        ({"strategy": {"name": "der"}}, "needs 'classifier'"),
        ({"strategy": {"name": "ncm"}}, "needs 'classifier'|predicts tokens"),
        ({"protocol": {"split": "classes"}}, "protocol.split = 'classes' is not possible for text; valid: none, samples"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words) as error:
        run_cell(resolve(tiny(**changes)), Options(tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_model_of_another_world_is_refused():
    with pytest.raises(UsageError, match="model 'mlp' is for images, but scenario 'llm_pretraining' streams text; valid: gpt_neox, llama"):
        clsuite.run(scenario=TINY["scenario"], model="mlp", device="cpu")
    with pytest.raises(UsageError, match="model 'llama' is for text"):
        clsuite.run(model="llama", device="cpu")


def _no_checkpoints():
    from clsuite.training.checkpoint import Checkpoints

    return Checkpoints(None, "", {}, math.inf)


def test_a_batch_in_parts_gives_the_step_of_the_whole_batch():
    llama = {**tiny(), "model": LLAMA}
    whole = make_run(resolve(llama), torch.device("cpu"))
    parts = make_run(resolve({**llama, "training": {**TINY["training"], "accumulation": 3}}), torch.device("cpu"))
    losses = [[], []]
    for run, seen in zip((whole, parts), losses, strict=True):
        loop = Loop(run, _no_checkpoints(), report=lambda r, seen=seen: seen.append(r["loss"]) if r["event"] == "loss" else None)
        loop.execute()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for ours, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert parts.cost == whole.cost


def test_a_stop_between_the_parts_of_a_batch_waits_for_its_step(tmp_path):
    raw = tiny(training={"accumulation": 2})
    whole = run_cell(resolve(raw), Options(tmp_path / "whole"))

    again = gone_on(lambda: resolve(raw), tmp_path / "cut", 7)
    assert again["weights_sha256"] == whole["weights_sha256"] and again["loss_curve"] == whole["loss_curve"]


def test_a_stream_of_text_can_be_shown(capsys):
    from clsuite.report.curves import stream_command

    stream_command(["scenario=llm_pretraining", "scenario.corpora=[synthetic:0]", "scenario.tokens=6400"], False, None)
    assert "6,400" in capsys.readouterr().out
