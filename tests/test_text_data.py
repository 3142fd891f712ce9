"""Named texts and their shards, and windows of tokens."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsuite.data.text.corpus import PARTS, load_corpus, windows
from clsuite.data.text.names import open_text
from clsuite.errors import MissingData

from .text_files import BYTES, prose, refusal, write

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]

# -- names ------------------------------------------------------------------------------------------------------


def test_named_texts_are_found_where_data_is_looked_for(tmp_path, monkeypatch):
    for root, folder, name in (("one", "text", "mine.txt.xz"), ("two", "", "mine.txt"), ("two", "text", "other.txt.gz")):
        text = prose(60_000, seed=len(root + name)).encode()
        packed = {"xz": lzma.compress, "gz": gzip.compress}.get(name.rpartition(".")[2], bytes)(text)
        write(tmp_path / root / folder / name, packed)
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "two"))
    first = load_corpus("mine", BYTES, str(tmp_path / "one"))
    assert first.identity != load_corpus("mine", BYTES).identity
    assert first.identity == load_corpus(f"file:{tmp_path}/one/text/mine.txt.xz", BYTES).identity
    assert load_corpus("other", BYTES).name == "other"


def test_an_unknown_name_is_refused_with_the_nearest_of_what_is_there(tmp_path):
    write(tmp_path / "text" / "swedish_poems.txt.xz", lzma.compress(b"x"))
    write(tmp_path / "text" / "LICENSE-poems.txt", "x")
    message = refusal(lambda: load_corpus("swedish_poem", BYTES, str(tmp_path)))
    assert "unknown corpus 'swedish_poem'; did you mean 'swedish_poems'?" in message
    assert "python_library" in message and "file:PATH" in message and "LICENSE" not in message
    assert "unknown corpus '../x'" in refusal(lambda: load_corpus("../x", BYTES, str(tmp_path)))


def test_a_known_text_that_is_absent_says_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "a"))
    message = refusal(lambda: load_corpus("german_law", BYTES), MissingData)
    for part in ("german_law", str(tmp_path / "a"), str(tmp_path / "cache" / "clsuite" / "data"), "text/german_law.txt", ".xz", "--data-root", "CLSUITE_DATA"):
        assert part in message


def test_a_known_name_brings_its_rule_under_either_name(tmp_path):
    text = "".join(f" = Title {k} = \n\n {prose(1500, k)} = = Part = = \n= not =\n" for k in range(80))
    write(tmp_path / "text" / "wikitext2_test.txt", text)
    named = load_corpus("wikitext2_test", BYTES, str(tmp_path))
    assert named.title == "WikiText-2, test file"
    found = [document for document, _ in open_text("wikitext2_test", str(tmp_path)).documents()]
    assert sum(document.startswith(b" = Title") for document in found) == 80
    assert named.identity == load_corpus(f"file:{tmp_path}/text/wikitext2_test.txt", BYTES).identity


@pytest.mark.parametrize("shard", ["2/2", "5/3", "0/0", "-1/2", "1", "x", "", "0/2000"])
def test_a_shard_out_of_range_is_refused(shard):
    assert "shard" in refusal(lambda: load_corpus(f"python_reference#{shard}", BYTES))


def test_shards_of_a_corpus_divide_every_part(tmp_path):
    name = write(tmp_path / "a.txt", prose(400_000))
    whole, *shards = (load_corpus(name + tail, BYTES) for tail in ("", "#0/2", "#1/2"))
    assert len({corpus.identity for corpus in (whole, *shards)}) == 3
    assert shards[0].title.endswith("shard 0 of 2") and shards[0].name.endswith("#0/2")
    for part in PARTS:
        assert np.array_equal(np.sort(np.concatenate([shard.documents(part) for shard in shards])), whole.documents(part))
    assert load_corpus(f"{name}#0/1", BYTES).identity == whole.identity


def test_a_path_may_hold_a_hash_sign(tmp_path):
    assert load_corpus(write(tmp_path / "a#b.txt", prose(80_000)), BYTES).identity == load_corpus(write(tmp_path / "c.txt", prose(80_000)), BYTES).identity


def test_an_unknown_part_is_refused():
    assert "did you mean 'validation'" in refusal(lambda: load_corpus("python_reference", BYTES).tokens("validatoin"))


# -- windows ----------------------------------------------------------------------------------------------------


def test_windows_by_hand():
    assert [windows(length, 4) for length in (0, 1, 4, 5, 8, 9, 10)] == [0, 0, 0, 1, 1, 2, 2]
    assert "context = 0" in refusal(lambda: windows(10, 0))


@given(st.integers(0, 500), st.integers(1, 40))
def test_every_target_of_the_windows_is_counted_once(length, context):
    count = windows(length, context)
    targets = [t for w in range(count) for t in range(w * context + 1, w * context + context + 1)]
    assert targets == list(range(1, count * context + 1)) and (not targets or targets[-1] < length)
    assert count * context + context >= length  # one more would not fit


def test_importing_the_room_imports_nothing_heavy():
    heavy = {"torch", "tokenizers", "pyarrow", "transformers", "pandas", "datasets", "PIL"}
    code = f"import sys, clsuite.data.text.corpus; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
