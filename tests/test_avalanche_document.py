"""What docs/coming-from-avalanche.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import clsuite
from clsuite import templates
from clsuite.experiment.file import read
from clsuite.interop.avalanche_plugin_samples import fetch

from .avalanche_plugin_runs import Classifier, every_number, split_digits, trained

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


@pytest.fixture(scope="module")
def digits(avalanche):
    return split_digits(avalanche)


DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "coming-from-avalanche.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, flags=re.S | re.M)


def executed(block):
    names = {}
    exec(compile(block, "docs/coming-from-avalanche.md", "exec"), names)
    return names


def test_the_line_in_the_document_trains(avalanche, digits):
    model = Classifier()
    strategy = executed(BLOCKS[0])["make"](model, torch.optim.SGD(model.parameters(), lr=0.05), nn.CrossEntropyLoss())
    for experience in list(digits.train_stream)[:2]:
        strategy.train(experience)
    assert strategy.plugins[0].run.memories["replay"].capacity == 500


def test_the_plugins_in_the_document_exist():
    executed("import clsuite\n" + BLOCKS[1])
    named = DOCUMENT.split("has room in an Avalanche strategy a plugin: ")[1].split("; several joined")[0]
    assert {clsuite.avalanche_plugin(name).parts[0].name for name in re.findall(r"`(\w+)`", named)} >= {
        "fpf",
        "refresh",
        "slow_learner",
        "alignment",
        "sensitivity",
    }


def test_the_stream_in_the_document_is_a_benchmark(avalanche):
    names = executed(BLOCKS[2])
    assert [len(e.dataset) for e in names["benchmark"].train_stream] == [len(e) for e in names["stream"].experiences]
    plain = clsuite.to_avalanche(names["stream"], task_labels=False)
    assert {tuple(e.task_labels) for e in plain.train_stream} == {(0,)}


def test_the_script_in_the_document_imports_what_there_is_and_its_file_is_an_experiment(avalanche, tmp_path):
    script = BLOCKS[3]
    executed(script[: script.index("for learning_rate")])
    compile(script, "script", "exec")
    (tmp_path / "split_mnist.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, flags=re.S | re.M)[0])
    experiment = read(tmp_path / "split_mnist.yaml")
    assert [d.path for d in experiment.spaces["replay"].dimensions] == ["training.learning_rate"] and len(experiment.seeds) == 3


def test_the_same_method_in_both_learns(avalanche, digits):
    theirs_ = executed(BLOCKS[4])["WeightedReplay"](mem_size=50, weight=2.0)
    plain, weighted = (trained(avalanche, digits, p, "Naive", experiences=3) for p in (SimpleNamespace(), theirs_))
    first = digits.test_stream[0]
    assert not torch.equal(every_number(plain.model), every_number(weighted.model)) and len(theirs_.memory.buffer) == 50
    assert accuracy(weighted.model, first) > accuracy(plain.model, first)  # the first experience is remembered better
    template = templates.STRATEGY.replace("CLASS", "WeightedReplay").replace("NAME", "weighted_replay")
    assert BLOCKS[5].strip() in template


@torch.inference_mode()
def accuracy(model, experience):
    model.eval()
    x, y = fetch(experience.dataset.eval(), range(len(experience.dataset)), torch.device("cpu"))
    return (model(x).argmax(1) == y).double().mean().item()
