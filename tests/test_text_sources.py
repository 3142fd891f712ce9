"""Texts that need no file: embedded, synthetic, and of the hub."""

from __future__ import annotations

import itertools
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from clsuite.data.text import hub, synthetic
from clsuite.data.text.corpus import SPLITS, load_corpus
from clsuite.data.text.names import open_text
from clsuite.errors import MissingData

from .text_files import BYTES, refusal, rows, write

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]


@pytest.mark.parametrize(("name", "least"), [("python_reference", 200_000), ("python_library", 2_000_000)])
def test_every_python_carries_text_enough_for_all_parts(name, least):
    corpus = load_corpus(name, BYTES)
    assert corpus.identity and corpus.title and corpus.entropy is None
    for parts in SPLITS.values():
        assert least < sum(corpus.bytes(part) for part in parts) <= 4_000_000
        assert all(len(corpus.tokens(part)) > 1000 for part in parts)


def test_the_language_reference_says_nothing_twice():
    paragraphs = [line for document, _ in open_text("python_reference").documents() for line in document.split(b"\n\n") if len(line) > 80]
    assert len(paragraphs) > 500
    assert len(paragraphs) == len(set(paragraphs))


def test_the_library_is_source_code_of_this_python():
    import sysconfig

    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = b"\n".join(file.read_bytes() for file in sorted(folder.glob("[_a-d]*.py")))
    documents = [document for document, _ in itertools.islice(open_text("python_library").documents(), 40)]
    assert all(document in sources for document in documents)


def tiny() -> synthetic.Chain:
    transitions = np.array([[40_000, 20_000, 5_536], [1, 65_534, 1], [30_000, 5_536, 30_000]])
    return synthetic.Chain(transitions, np.array([1_000, 64_000, 536]), length=5)


def test_the_entropy_is_that_of_all_documents_of_a_tiny_source():
    chain = tiny()
    nats = 0.0
    for symbols in itertools.product(range(3), repeat=5):
        p = chain.start[symbols[0]] / 65_536
        for a, b in itertools.pairwise(symbols):
            p *= chain.transitions[a, b] / 65_536
        nats -= p * math.log(p)
    assert chain.entropy == pytest.approx(nats / 6, rel=1e-12)  # 5 symbols and the end of text, which is certain


def test_samples_of_a_tiny_source_have_its_frequencies():
    chain = tiny()
    symbols = chain.sample(40_000, np.random.default_rng(0))
    assert symbols.shape == (40_000, 5)
    starts = np.bincount(symbols[:, 0], minlength=3) / 40_000
    assert np.abs(starts - chain.start / 65_536).max() < 0.01
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (symbols[:, :-1], symbols[:, 1:]), 1)
    seen = pairs.sum(1, keepdims=True)
    assert (np.abs(pairs / seen - chain.transitions / 65_536) < 2.5 / np.sqrt(seen)).all()  # five standard errors of a half


def test_the_entropy_is_what_the_true_source_pays_on_its_own_text():
    corpus = load_corpus("synthetic:3", BYTES)
    ids = np.asarray(corpus.tokens("tuning-train")).reshape(-1, synthetic.LENGTH + 1)
    assert (ids[:, -1] == 256).all() and (ids[:, :-1] < 256).all()
    chain = synthetic.chain(3)
    symbols = ids[:, :-1].astype(np.int64) - 48
    nats = -np.log(chain.transitions / 65_536)[symbols[:, :-1], symbols[:, 1:]].sum(1) - np.log(chain.start / 65_536)[symbols[:, 0]]
    each = nats / (synthetic.LENGTH + 1)
    assert abs(each.mean() - corpus.entropy) < 4 * each.std() / math.sqrt(len(each)) < 0.005
    assert 1.5 < corpus.entropy < math.log(64)


def test_the_chain_starts_stationary():
    chain = synthetic.chain(1)
    p = chain.start / 65_536
    assert np.abs(p @ (chain.transitions / 65_536) - p).max() < 1e-4
    assert (chain.transitions.sum(1) == 65_536).all() and chain.start.sum() == 65_536 and chain.transitions.min() >= 1


def test_a_changed_source_shares_the_rest_of_its_rows():
    base = synthetic.chain(1).transitions
    differ = {share: np.flatnonzero((synthetic.chain(1, share).transitions != base).any(1)) for share in (0.0, 0.25, 0.5, 1.0)}
    assert [len(rows) for rows in differ.values()] == [0, 16, 32, 64]
    assert set(differ[0.25]) < set(differ[0.5])
    assert (synthetic.chain(1, 0.5).transitions[differ[0.25]] == synthetic.chain(1, 1.0).transitions[differ[0.25]]).all()


def test_synthetic_corpora_are_functions_of_their_name(monkeypatch, bpe):
    monkeypatch.setattr(synthetic, "DOCUMENTS", 700)
    found = {name: load_corpus(name, BYTES) for name in ("synthetic:1", "synthetic:1:0", "synthetic:1:0.5", "synthetic:2")}
    assert found["synthetic:1"].identity == found["synthetic:1:0"].identity
    assert len({corpus.identity for corpus in found.values()}) == 3
    assert not set(found["synthetic:1"].documents("train").tolist()) & set(found["synthetic:1:0.5"].documents("train").tolist())
    assert sum(corpus.bytes(part) for corpus in [found["synthetic:2"]] for part in SPLITS["none"]) == 700 * 4095
    assert load_corpus("synthetic:1", bpe).entropy is None and load_corpus("synthetic:1#0/2", BYTES).entropy == found["synthetic:1"].entropy


@pytest.mark.parametrize("name", ["synthetic:", "synthetic:x", "synthetic:1:2", "synthetic:1:-0.5", "synthetic:1:nan", "synthetic:-1", "synthetic:1:0.5:3"])
def test_a_synthetic_name_that_cannot_be_is_refused(name):
    assert "CHANGED in 0..1" in refusal(lambda: load_corpus(name, BYTES))


def fake_hub(monkeypatch, rows):
    asked = []
    module = types.ModuleType("datasets")
    module.load_dataset = lambda *args, **kwargs: asked.append((args, kwargs)) or iter(rows)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delenv("CLSUITE_OFFLINE")
    return asked


def test_a_data_set_of_the_hub_is_streamed_once_and_then_local(tmp_path, monkeypatch, capsys):
    texts = rows()
    asked = fake_hub(monkeypatch, [{"body": text} for text in texts])
    corpus = load_corpus("hf:someone/set:small?field=body", BYTES)
    local = load_corpus(write(tmp_path / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts)), BYTES)
    assert corpus.identity == local.identity
    monkeypatch.setenv("CLSUITE_OFFLINE", "1")
    load_corpus("hf:someone/set:small?field=body#0/2", BYTES)
    assert asked == [(("someone/set", "small"), {"split": "train", "streaming": True})]
    assert "fetched someone/set" in capsys.readouterr().err


def test_no_more_of_the_hub_is_fetched_than_the_limit(monkeypatch):
    fake_hub(monkeypatch, ({"text": f"{k:0100}"} for k in itertools.count()))
    monkeypatch.setattr(hub, "_MOST_BYTES", 30_000)
    assert sum(load_corpus("hf:endless", BYTES).bytes(part) for part in SPLITS["none"]) == 30_000


def test_a_hub_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    assert "downloads are off" in refusal(lambda: load_corpus("hf:a/b", BYTES), MissingData)
    assert "expected hf:NAME" in refusal(lambda: load_corpus("hf:a/b/c", BYTES))
    fake_hub(monkeypatch, [{"body": "x"}])
    assert "no text in field 'text' (it has 'body')" in refusal(lambda: load_corpus("hf:a/b", BYTES))

    def fails(*_, **__):
        raise ConnectionError("no\nroute to host")

    sys.modules["datasets"].load_dataset = fails
    assert "cannot be fetched: no route to host" in refusal(lambda: load_corpus("hf:a/b", BYTES), MissingData)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in refusal(lambda: load_corpus("hf:a/b", BYTES))
    assert not list((tmp_path / "cache" / "clsuite" / "hub").iterdir())
