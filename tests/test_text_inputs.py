"""What cannot be trained on: one line that names setting and value, before any step, and nothing written."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

from clsuite.cli import main
from clsuite.experiment.engines.local import LocalEngine, Task
from clsuite.models.language import LanguageNetwork
from clsuite.models.language_checkpoint import save_checkpoint
from clsuite.training.loop import MEASUREMENTS
from clsuite.training.text_metrics import model_flop_utilisation, peak_of

pytestmark = pytest.mark.unit

TINY = {
    "scenario": "llm_pretraining",
    "scenario.corpora": "[synthetic:0]",
    "scenario.context": "32",
    "scenario.tokens": "6400",
    "scenario.validation_tokens": "320",
    "scenario.probe_tokens": "0",
    "model.layers": "1",
    "model.width": "16",
    "model.heads": "2",
    "training.batch_size": "8",
    "device": "cpu",
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run a command that must be refused, in an empty folder and without a step of training; its line."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("CLSUITE_DATA", raising=False)

    def trained(*_, **__):
        raise AssertionError("it was trained")

    def run(**items):
        monkeypatch.setattr("clsuite.training.run.Run.update", trained)
        given = {**TINY, **items}
        with pytest.raises(SystemExit) as left:
            main(["run", *(f"{key}={value}" for key, value in given.items() if value is not None)])
        out, err = capsys.readouterr()
        assert (left.value.code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("clsuite: ") and not list(empty.iterdir())
        return err

    return run


def prose(words: int = 30_000) -> str:
    drawn = np.random.default_rng(0).integers(0, 1000, words)
    return "".join(f"w{w} " + ("\n\n" if k % 50 == 0 else "") for k, w in enumerate(drawn))


def write_parquet(path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"body": [f"{k} " * 100 for k in range(50)], "number": list(range(50))}), path)


FILES = {
    "empty.txt": lambda path: path.write_text(""),
    "blank.txt": lambda path: path.write_text("\n\n  \n"),
    "short.txt": lambda path: path.write_text("a b c\n"),
    "latin.txt": lambda path: path.write_bytes(("Grüße und mehr\n\n" * 2000).encode("latin-1")),
    "good.txt": lambda path: path.write_text(prose()),
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps({"body": f"{k} " * 100}) + "\n" for k in range(50))),
    "number.jsonl": lambda path: path.write_text('{"text": 3}\n'),
    "torn.jsonl": lambda path: path.write_text('{"text": "a b c"}\n{"text": "a'),
    "rows.parquet": write_parquet,
    "torn.parquet": lambda path: path.write_text("hello"),
    "negative.npy": lambda path: np.save(path, np.array([1, 2, -3] * 2000)),
    "float.npy": lambda path: np.save(path, np.array([1.0, 2.0] * 2000)),
    "large.npy": lambda path: np.save(path, np.array([1, 2, 300] * 2000)),
    "odd.bin": lambda path: path.write_bytes(b"abc"),
}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("empty.txt", "is empty: it holds no text"),
        ("blank.txt", "is empty: it holds no text"),
        ("short.txt", "is too small: its part 'validation' would be empty, as it has only 1 document"),
        ("latin.txt", "is not UTF-8 text: byte 2 (invalid start byte); convert it to UTF-8 first"),
        ("rows.jsonl", "line 1 has no field 'text' (it has 'body'): choose one with file:PATH?field=NAME"),
        ("rows.jsonl?field=boby", "line 1 has no field 'boby' (it has 'body')"),
        ("number.jsonl", "line 1: field 'text' is int, expected text"),
        ("torn.jsonl", "line 2 is not valid JSON"),
        ("rows.parquet", "has no column 'text' (it has body, number): choose one with file:PATH?field=NAME"),
        ("rows.parquet?field=number", "column 'number' is int64, expected strings"),
        ("torn.parquet", "cannot be read, it may be damaged"),
        ("negative.npy", "token 2 is -3, the tokenizer has ids 0..256: choose the tokenizer that made the file"),
        ("float.npy", "holds float64 of shape (4000,): expected token ids, integers in one dimension"),
        ("large.npy", "token 2 is 300, the tokenizer has ids 0..256"),
        ("odd.bin", "holds 3 bytes, which is no whole number of uint16 tokens"),
        ("nowhere.txt", "is no file and no folder"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named_with_its_fault(refused, tmp_path, file, words):
    name = file.partition("?")[0]
    if name in FILES:
        FILES[name](tmp_path / name)
    line = refused(**{"scenario.corpora": f'["file:{tmp_path / file}"]'})
    assert "scenario.corpora: " in line and str(tmp_path / name) in line and words in line


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({"scenario.tokens": "10000000"}, "scenario.tokens = 10000000 goes more than 4 times through the "),
        ({"scenario.tokens": "10000000"}, "; valid: up to "),
        ({"scenario.tokens": "-5"}, "scenario.tokens = -5 is out of bounds: expected a finite value >= 1"),
        ({"scenario.tokens": "[0]"}, "scenario.tokens = [0] is out of bounds"),
        ({"scenario.tokens": "31"}, "scenario.tokens = 31 is less than one window (scenario.context = 32)"),
        ({"scenario.context": "0"}, "scenario.context = 0 is out of bounds"),
        ({"scenario.context": "20000", "scenario.tokens": "20000"}, "scenario.context = 20000 is longer than the validation part of corpus"),
        ({"scenario.context": "20000", "scenario.tokens": "20000"}, " tokens; valid: up to "),
        ({"scenario.validation_tokens": "-1"}, "scenario.validation_tokens = -1 is out of bounds"),
    ],
)
def test_a_budget_or_a_context_that_the_text_does_not_hold(refused, tmp_path, items, words):
    FILES["good.txt"](tmp_path / "good.txt")
    assert words in refused(**{"scenario.corpora": f'["file:{tmp_path / "good.txt"}"]', **items})


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({"scenario.corpora": "[english_novel]"}, "unknown corpus 'english_novel'; did you mean 'english_novels'?"),
        ({"scenario.corpora": "[pythn_library]"}, "unknown corpus 'pythn_library'; did you mean 'python_library'?"),
        ({"scenario.corpora": "[english_novels]"}, "scenario.corpora: corpus 'english_novels' not found: looked for text/english_novels.txt"),
        ({"scenario.corpora": "synthetic:0"}, "scenario.corpora = 'synthetic:0' is not valid: expected a list of texts"),
        ({"scenario.corpora": "['synthetic:x']"}, "expected synthetic:SEED"),
        ({"scenario.corpora": "['synthetic:0#2/2']"}, "shard '2/2' is out of range"),
        ({"scenario.corpora": None, "scenario.shift": "strog"}, "scenario.shift = 'strog' is not valid"),
        ({"scenario.corpora": None, "scenario.shift": "strog"}, "did you mean 'strong'?"),
        ({"scenario.tokenizer": "byts"}, "scenario.tokenizer: unknown tokenizer 'byts'; did you mean 'bytes'?"),
        ({"scenario.tokenizer": "file:none.json"}, "none.json is no file; expected a tokenizer.json"),
        ({"scenario.tokenizer": "bpe", "scenario.vocabulary": "100"}, "scenario.vocabulary = 100 is out of bounds: expected a finite value >= 257"),
        ({"scenario.token_type": "uint8"}, "scenario.token_type = 'uint8' is not valid: expected one of auto, uint16, uint32"),
    ],
)
def test_an_unknown_corpus_or_tokenizer_has_its_nearest_neighbour(refused, items, words):
    assert words in refused(**items)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({"training.schedule": "{name: cosine, warmup: 1000}"}, "training.schedule.warmup = 1000 is not valid: its 1000 steps must be fewer than the 25 steps"),
        ({"training.schedule": "{name: wsd, shape: exponential, minimum: 0}"}, "training.schedule.minimum = 0.0 is not valid"),
        ({"training.schedule": "{name: infinite_cosine, minimum: 0}"}, "training.schedule.minimum = 0.0 is not valid"),
        ({"training.epochs": "2"}, "training.epochs = 2 is not possible for text: scenario.tokens says how long to train (valid: 1)"),
        ({"strategy": "derpp"}, "strategy 'derpp' cannot be used here: it needs 'classifier'"),
        ({"phase": "tuning"}, "protocol.split = 'none' has no tuning phase; valid with one: samples"),
        ({"model.heads": "3"}, "model.heads = 3 does not divide the width 16"),
    ],
)
def test_training_that_text_does_not_allow(refused, items, words):
    assert words in refused(**items)


def test_an_image_model_on_a_stream_of_text(refused):
    line = refused(**{"model.layers": None, "model.width": None, "model.heads": None, "model": "cnn"})
    assert "model 'cnn' is for images, but scenario 'llm_pretraining' streams text; valid: gpt_neox, llama" in line


def test_a_tokenizer_with_more_ids_than_its_array_type_holds(refused, tmp_path):
    library = pytest.importorskip("tokenizers")
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: k for k, text in enumerate((*alphabet, *(a + b for a, b in itertools.islice(itertools.product(alphabet, alphabet), 65_281))))}
    made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[]))  # 65,537 tokens, and the end of text
    made.pre_tokenizer, made.decoder = library.pre_tokenizers.ByteLevel(add_prefix_space=False), library.decoders.ByteLevel()
    made.save(str(tmp_path / "tokenizer.json"))
    line = refused(**{"scenario.tokenizer": f"file:{tmp_path}", "scenario.token_type": "uint16"})
    assert f"scenario.token_type = 'uint16' holds no more than 65,536 token ids, scenario.tokenizer = 'file:{tmp_path}' has 65,538; valid: auto, uint32" in line


def test_a_checkpoint_of_another_vocabulary(refused, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(vocab_size=500, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    made = transformers.GPTNeoXForCausalLM(config)
    save_checkpoint(LanguageNetwork(made.base_model, made.get_output_embeddings(), config), tmp_path / "network")
    line = refused(**{"model.layers": None, "model.width": None, "model.heads": None, "model.checkpoint": str(tmp_path / "network")})
    assert f"model.checkpoint: {tmp_path / 'network'} has a vocabulary of 500 tokens, the tokenizer of the data one of 257" in line


# The share of a device's peak


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GH200 480GB", None),
        ("cpu", None),
    ],
)
def test_a_device_has_the_peak_of_its_own_form_or_none(device, peak):
    assert peak_of(device) == peak


def test_utilisation_by_hand():
    # 124M parameters, 12 layers x 768, context 1,024: 6 N + 12 L d context = 0.744e9 + 0.113e9; 0.44M tokens/s are 0.38 of an H100
    assert model_flop_utilisation(6 * 124e6 + 12 * 12 * 768 * 1024, 0.44e6, "NVIDIA H100 80GB HBM3") == pytest.approx(0.3814, abs=1e-4)
    assert model_flop_utilisation(1e9, 1e6, "a device nobody has heard of") is None
    assert model_flop_utilisation(1e9, None, "NVIDIA H200") is None


def test_the_metric_is_null_on_a_cpu_and_beside_the_tokens_a_second(run_of):
    cell = {"name": "llm_pretraining", "corpora": ["synthetic:0"], "tokens": 3200, "context": 32, "validation_tokens": 320}
    run = run_of(scenario=cell, model={"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2}, device="cpu")
    found = MEASUREMENTS["text"](run).metrics(2.0)
    assert found["tokens_per_second"] == 0.0 and found["model_flop_utilisation"] is None


def test_a_window_knows_its_corpus_without_a_table_of_all_windows(run_of, monkeypatch):
    cell = {"name": "llm_pretraining", "corpora": ["synthetic:0", "synthetic:0:0.5"], "tokens": 3200, "context": 32, "validation_tokens": 320}
    stream = run_of(scenario=cell, model={"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2}, device="cpu").stream
    border = stream.source.starts("train")[1]
    monkeypatch.setattr(stream.source, "labels", lambda split: pytest.fail("a table of all windows was made"))
    assert stream.labels_of(np.array([0, border - 1, border, stream.source.size("train") - 1])).tolist() == [0, 0, 1, 1]


# What cells of text import before they begin


NETWORKS = """
import gc, os, sys
from clsuite.experiment.warm import import_for
from clsuite import registry

def state():
    import torch
    return len(os.listdir("/proc/self/task")), sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

before, there = state(), lambda name: f"transformers.models.{name}.modeling_{name}" in sys.modules
for name in ("mlp", "gpt_neox", "llama"):
    import_for(registry.load("models", name)())
    print(name, there("gpt_neox"), there("llama"), state() == before)
"""


def test_the_networks_of_transformers_are_imported_without_a_thread_or_a_tensor_where_a_model_is_one_of_them(tmp_path, one_server):
    if not sys.platform.startswith("linux"):
        pytest.skip("threads are counted in /proc")
    program, log = tmp_path / "networks.py", tmp_path / "log"
    program.write_text(NETWORKS)
    with LocalEngine(1) as engine:  # a process that has imported what cells of images need
        (ending,) = engine.run([Task("networks", "builtins:exec", f"import runpy; runpy.run_path({str(program)!r})", log)])
    assert ending.status == "ok" and log.read_text().splitlines() == ["mlp False False True", "gpt_neox True False True", "llama True True True"], ending
