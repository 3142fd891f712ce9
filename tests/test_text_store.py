"""Token arrays in the cache: their parts, identity and types, damage, and processes that build at once."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clsuite.data.text import corpus as corpora
from clsuite.data.text import names, store
from clsuite.data.text.corpus import PARTS, SPLITS, load_corpus
from clsuite.data.text.tokenizer import ByteTokenizer, load_tokenizer
from clsuite.errors import UsageError

from .text_files import BYTES, documents_in, prose, refusal, write

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=40).filter(str.strip), min_size=120, max_size=160))
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
def test_parts_together_are_the_corpus_and_share_no_document(texts):
    with tempfile.TemporaryDirectory() as folder:
        texts = [f"{text}|{k // 2}" for k, text in enumerate(texts)]
        corpus = load_corpus(write(Path(folder) / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts)), BYTES)
        expected = [text.encode() for text in dict.fromkeys(texts)]
        try:
            corpus.tokens("train"), corpus.tokens("tuning-train")
        except UsageError as error:  # a small part of a small text may be empty
            assert "would be empty" in str(error)
            return
        for parts in SPLITS.values():
            found = {part: documents_in(corpus, part) for part in parts}
            assert sorted(itertools.chain(*found.values())) == sorted(expected)
            digests = [corpus.documents(part) for part in parts]
            assert sum(map(len, digests)) == len(np.unique(np.concatenate(digests))) == len(expected)
            for part in parts:
                assert corpus.bytes(part) == sum(map(len, found[part])) == len(corpus.tokens(part)) - len(found[part])
                order = {text: k for k, text in enumerate(expected)}
                assert sorted(found[part], key=order.__getitem__) == found[part]


def test_digests_are_the_first_bytes_of_the_sha256_of_the_content(tmp_path):
    import hashlib

    corpus = load_corpus(write(tmp_path / "a.txt", prose(80_000)), BYTES)
    expected = sorted(int(hashlib.sha256(document).hexdigest()[:16], 16) for document in documents_in(corpus, "validation"))
    assert corpus.documents("validation").dtype == np.uint64 and corpus.documents("validation").tolist() == expected


def test_tokens_are_mapped_read_only_and_small(tmp_path, bpe):
    name = write(tmp_path / "a.txt", prose(80_000))
    for tokenizer in (BYTES, bpe):
        tokens = load_corpus(name, tokenizer).tokens("train")
        assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16 and tokens.ndim == 1 and not tokens.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            load_corpus(name, tokenizer).documents("train")[0] = 1
        assert tokenizer.byte_lengths[tokens].sum() == load_corpus(name, tokenizer).bytes("train")


def test_every_tokenizer_sees_the_same_documents(tmp_path, bpe):
    name = write(tmp_path / "a.txt", prose(80_000))
    one, other = load_corpus(name, BYTES), load_corpus(name, bpe)
    assert one.identity == other.identity and one is not other
    for part in PARTS:
        assert np.array_equal(one.documents(part), other.documents(part)) and one.bytes(part) == other.bytes(part)
        assert documents_in(one, part) == documents_in(other, part)


class Wide(ByteTokenizer):
    """Bytes in a vocabulary that uint16 cannot hold."""

    name, size, end_of_text, identity = "wide", 65_537, 65_536, "wide"
    byte_lengths = np.array([1] * 256 + [0] * (65_537 - 256), dtype=np.int32)

    def encode(self, texts):
        return [ids.astype("<u4") for ids in super().encode(texts)]


def test_a_vocabulary_beyond_uint16_is_stored_as_uint32_and_a_smaller_type_is_refused(tmp_path):
    name = write(tmp_path / "a.txt", prose(80_000))
    wide = load_corpus(name, Wide()).tokens("train")
    assert wide.dtype == np.uint32 and wide[-1] == 65_536
    assert "tokenizer larger than its array type" in refusal(lambda: load_corpus(name, Wide(), dtype="uint16"))
    assert "unknown dtype 'int8'" in refusal(lambda: load_corpus(name, BYTES, dtype="int8"))
    assert load_corpus(name, BYTES, dtype="uint32").tokens("train").dtype == np.uint32
    assert load_corpus(name, BYTES).tokens("train").dtype == np.uint16


def test_the_identity_is_the_same_before_and_after_tokens_are_made(tmp_path):
    name = write(tmp_path / "a.txt", prose(80_000))
    before = load_corpus(name, BYTES).identity
    corpora._LOADED.clear()
    shutil.rmtree(tmp_path / "cache")
    corpus = load_corpus(name, BYTES)
    corpus.tokens("train")
    assert corpus.identity == before
    (kept,) = (tmp_path / "cache" / "clsuite" / "identity").iterdir()
    assert kept.read_text() == before


def test_a_second_process_reads_the_cache_and_not_the_text(tmp_path, monkeypatch):
    name = write(tmp_path / "a.txt", prose(80_000))
    corpus = load_corpus(name, BYTES)
    expected = {part: corpus.tokens(part).tobytes() for part in PARTS}
    corpora._LOADED.clear()
    monkeypatch.setattr(names, "split", lambda *_: pytest.fail("the text was read again"))
    again = load_corpus(name, BYTES)
    assert {part: again.tokens(part).tobytes() for part in PARTS} == expected and again.identity == corpus.identity


def test_a_corpus_is_loaded_once_and_anew_when_its_file_changes(tmp_path):
    name = write(tmp_path / "a.txt", prose(80_000))
    first = load_corpus(name, BYTES)
    assert load_corpus(name, load_tokenizer("bytes")) is first
    identity, length = first.identity, len(first.tokens("train"))
    write(tmp_path / "a.txt", prose(90_000))
    second = load_corpus(name, BYTES)
    assert second is not first and second.identity != identity and len(second.tokens("train")) > length


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "shorten", "unlink", "empty"])
@pytest.mark.parametrize("file", ["train.tokens", "validation.documents", "index.json"])
def test_a_damaged_cache_is_found_out_and_built_again(tmp_path, damage, file):
    name = write(tmp_path / "a.txt", prose(80_000))
    expected = load_corpus(name, BYTES).tokens("train").tobytes()
    (folder,) = (tmp_path / "cache" / "clsuite" / "tokens").iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder / file)
    corpora._LOADED.clear()
    assert load_corpus(name, BYTES).tokens("train").tobytes() == expected
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert list(folder.parent.iterdir()) == [folder]


def test_arrays_too_large_to_be_read_whole_are_checked_by_samples(monkeypatch):
    values = np.random.default_rng(0).integers(0, 60_000, 50_000).astype("<u2")
    whole = store._checksum(values)
    monkeypatch.setattr(store, "_CHECKED", 1 << 14)
    monkeypatch.setattr(store, "_SAMPLE", 1 << 10)
    sampled = store._checksum(values)
    assert sampled != whole
    for at in (0, len(values) - 1):  # both ends are in a sample
        values[at] ^= 1
        assert store._checksum(values) != sampled
        values[at] ^= 1


@pytest.mark.parametrize("temporary", [True, False], ids=["temporary folder", "memory"])
def test_a_cache_that_cannot_be_written_costs_no_run(tmp_path, monkeypatch, temporary):
    name = write(tmp_path / "a.txt", prose(80_000))
    first = load_corpus(name, BYTES)
    expected = {part: (first.tokens(part).tobytes(), first.documents(part).tobytes(), first.bytes(part)) for part in PARTS}
    corpora._LOADED.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.txt"))  # a file: no folder can be made in it
    scratch = tmp_path / "scratch"
    if temporary:
        scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    corpus = load_corpus(name, BYTES)
    assert {part: (corpus.tokens(part).tobytes(), corpus.documents(part).tobytes(), corpus.bytes(part)) for part in PARTS} == expected
    assert isinstance(corpus.tokens("train"), np.memmap) == temporary and not corpus.tokens("train").flags.writeable
    assert not temporary or not list(scratch.iterdir())


def test_a_disk_that_fills_up_while_writing_costs_no_run(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    corpus = load_corpus(write(tmp_path / "a.txt", prose(80_000)), BYTES)
    assert len(corpus.tokens("train")) and not list((tmp_path / "cache" / "clsuite" / "tokens").iterdir())


def test_another_process_may_be_first(tmp_path, monkeypatch):
    name = write(tmp_path / "a.txt", prose(80_000))
    real, nested = store._write, []

    def slow(*args):
        if not nested:
            nested.append(True)
            nested.append(store.open_tokens(*args[:4]))
        real(*args)

    monkeypatch.setattr(store, "_write", slow)
    corpus = load_corpus(name, BYTES)
    assert np.array_equal(corpus.tokens("train"), nested[1].parts["train"].tokens)
    assert len(list((tmp_path / "cache" / "clsuite" / "tokens").iterdir())) == 1


def test_two_processes_may_build_at_once(tmp_path):
    name = write(tmp_path / "a.txt", prose(400_000))
    code = (
        "import sys, zlib; from clsuite.data.text.corpus import load_corpus; from clsuite.data.text.tokenizer import load_tokenizer\n"
        "corpus = load_corpus(sys.argv[1], load_tokenizer('bytes')); print([zlib.crc32(corpus.tokens(part)) for part in ('train', 'tuning-train')])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert outputs[0][0] == outputs[1][0] != "" and outputs[0][1] == outputs[1][1] == ""
    assert all(not path.name.startswith(".") for path in (tmp_path / "cache" / "clsuite" / "tokens").iterdir())


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    folder = tmp_path / "cache" / "clsuite" / "tokens"
    for name, age in ((".writing-old", 90_000), (".writing-new", 60)):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.tokens").touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    load_corpus(write(tmp_path / "a.txt", prose(80_000)), BYTES).tokens("train")
    assert (folder / ".writing-new").is_dir() and not (folder / ".writing-old").exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="anonymous memory is read from /proc/self/smaps_rollup")
def test_a_text_is_never_in_memory_as_a_whole(tmp_path):
    letters = np.random.default_rng(0).integers(97, 123, 100_000_000, dtype=np.uint8)
    letters[60::61] = 10
    letters.tofile(tmp_path / "a.txt")
    code = (
        "import sys, threading\n"
        "from clsuite.data.text.corpus import load_corpus\nfrom clsuite.data.text.tokenizer import load_tokenizer\n"
        "def anonymous(): return next(int(line.split()[1]) for line in open('/proc/self/smaps_rollup') if line.startswith('Anonymous:')) / 1024\n"
        "before, peak, done = anonymous(), [0], threading.Event()\n"
        "def watch():\n    while not done.wait(0.01): peak[0] = max(peak[0], anonymous())\n"
        "watcher = threading.Thread(target=watch); watcher.start()\n"
        "length = len(load_corpus(sys.argv[1], load_tokenizer('bytes')).tokens('train')); done.set(); watcher.join()\n"
        "print(length, max(peak[0], anonymous()) - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, f"file:{tmp_path}/a.txt"], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) > 90_000_000 and float(out[1]) < 64  # megabytes; the text has 100, its tokens 200
