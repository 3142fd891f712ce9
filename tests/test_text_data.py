"""Text: tokenizers, documents, files, token arrays in the cache, synthetic and embedded corpora."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clsuite.data.text import corpus as corpora
from clsuite.data.text import hub, names, store, synthetic
from clsuite.data.text.corpus import PARTS, SPLITS, load_corpus, windows
from clsuite.data.text.documents import BLOCKS, KNOWN_RULES, ROWS, Rule, block_size, digest_of, part_of, split, unique
from clsuite.data.text.names import open_text
from clsuite.data.text.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer, load_tokenizer
from clsuite.errors import MissingData, UsageError

pytestmark = pytest.mark.unit

BYTES = load_tokenizer("bytes")
WORDS = ["der", "Fluß", "and", "rosa-ae", "α≤β", "{x}", "\\frac12", "naïve", "数学", "🙂", "if", "return:", "Größe", "it", "was", "the", "best"]
TEXTS = [
    "Drum prüfe, wer sich ewig bindet, ob sich das Herz zum Herzen findet! – „Größe“ süß, Öl, Ä.",
    "Gallia est omnis divisa in partes tres, quarum unam incolunt Belgæ; cōnsilium.",
    "\\begin{lemma}\n\\label{lemma-a}\nLet $f : X \\to Y$ be étale, $\\mathcal{O}_X$.\n\\end{lemma}\r\n\t% end",
    "<|endoftext|> is text here; 数学 🙂\u00a0\u2009x",
]


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, no download, nothing loaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CLSUITE_OFFLINE", "1")
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    monkeypatch.setattr(corpora, "_LOADED", {})


def prose(size: int, seed: int = 0) -> str:
    """About `size` bytes of paragraphs, none twice."""
    rng = np.random.default_rng(seed)
    paragraphs: list[str] = []
    total = 0
    while total < size:
        words = rng.choice(WORDS, rng.integers(5, 80)).tolist()
        paragraphs.append(f"{len(paragraphs)} " + " ".join(words))
        total += len(paragraphs[-1].encode()) + 2
    return "\n\n".join(paragraphs) + "\n"


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"file:{path}"


def documents_in(corpus, part: str) -> list[bytes]:
    """The documents of a part, read back from its tokens."""
    tokens = corpus.tokens(part)
    assert tokens[-1] == corpus.tokenizer.end_of_text
    ends = np.flatnonzero(np.asarray(tokens) == corpus.tokenizer.end_of_text)
    return [corpus.tokenizer.decode(ids[ids != corpus.tokenizer.end_of_text]).encode() for ids in np.split(np.asarray(tokens), ends[:-1] + 1)]


def refusal(call, error=UsageError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# tokenizers


def test_the_byte_tokenizer_has_a_byte_an_id():
    assert BYTES.encode(["Grüße", b"a"])[0].tolist() == [71, 114, 0xC3, 0xBC, 0xC3, 0x9F, 101]
    assert (BYTES.name, BYTES.size, BYTES.end_of_text) == ("bytes", 257, 256)
    assert BYTES.byte_lengths.dtype == np.int32 and BYTES.byte_lengths.tolist() == [1] * 256 + [0]
    assert BYTES.encode(["x"])[0].dtype == np.uint16


@given(st.text())
def test_bytes_give_every_text_back(text):
    assert BYTES.decode(BYTES.encode([text])[0]) == text
    assert BYTES.decode([*BYTES.encode([text])[0], 256]) == text


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Tokenizer:
    """BPE with 400 ids, trained on prose."""
    folder = tmp_path_factory.mktemp("bpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return load_tokenizer("bpe", 400, trained_on=write(folder / "prose.txt", prose(60_000)))


@pytest.mark.parametrize("text", TEXTS)
def test_byte_lengths_of_tokens_add_up_to_the_text(trained, text):
    ids = trained.encode([text])[0]
    assert trained.byte_lengths[ids].sum() == len(text.encode())
    assert trained.decode(ids) == text
    assert len(ids) < len(text.encode())


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bpe_gives_every_text_back_byte_for_byte(trained, text):
    ids = trained.encode([text])[0]
    assert trained.decode(ids) == text and trained.byte_lengths[ids].sum() == len(text.encode())


def test_bpe_has_the_vocabulary_asked_for_and_the_end_of_text_is_no_text(trained):
    assert trained.size == len(trained.byte_lengths) == 400
    assert trained.byte_lengths[trained.end_of_text] == 0 and (np.delete(trained.byte_lengths, trained.end_of_text) > 0).all()
    ids = trained.encode(["a<|endoftext|>b"])[0]
    assert trained.end_of_text not in ids and trained.byte_lengths[ids].sum() == 15
    assert trained.decode([*ids, trained.end_of_text]) == "a<|endoftext|>b"


def test_bpe_has_every_byte_even_those_it_never_saw(trained):
    text = "".join(map(chr, range(1, 0x250)))
    assert trained.decode(trained.encode([text])[0]) == text


def test_bpe_training_is_deterministic(trained, tmp_path, monkeypatch):
    name = write(tmp_path / "elsewhere.txt", prose(60_000))
    assert load_tokenizer("bpe", 400, trained_on=name).identity == trained.identity
    assert load_tokenizer("bpe", 401, trained_on=name).identity != trained.identity
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert load_tokenizer("bpe", 400, trained_on=name).identity == trained.identity


def test_bpe_sees_the_documents_of_its_part_only(tmp_path):
    rows = [f"{k} {text}" for k, text in enumerate(prose(40_000).split("\n\n"))]
    inside = {
        part: [row for row in rows if part_of(digest_of(row.strip("\n").encode()), split_name) == part] for split_name in SPLITS for part in SPLITS[split_name]
    }

    def saved(name, texts):
        return write(tmp_path / name, "".join(json.dumps({"text": text}) + "\n" for text in texts))

    for part in ("train", "tuning-train"):
        assert 0 < len(inside[part]) < len(rows)
        whole, only = saved("whole.jsonl", rows), saved(f"{part}.jsonl", inside[part])
        assert load_tokenizer("bpe", 350, whole, part).identity == load_tokenizer("bpe", 350, only, part).identity
    assert load_tokenizer("bpe", 350, whole, "train").identity != load_tokenizer("bpe", 350, whole, "tuning-train").identity


def test_a_trained_tokenizer_is_read_from_the_cache_and_trained_again_when_damaged(tmp_path, monkeypatch):
    name = write(tmp_path / "a.txt", prose(40_000))
    first = load_tokenizer("bpe", 300, trained_on=name)
    (cached,) = (tmp_path / "cache" / "clsuite" / "tokenizers").iterdir()
    whole = cached.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(names, "split", lambda *_: pytest.fail("the text was read again"))
        assert load_tokenizer("bpe", 300, trained_on=name).identity == first.identity
    for damaged in (whole[: len(whole) // 2], whole.replace('"', "'", 1), ""):
        cached.write_text(damaged)
        assert load_tokenizer("bpe", 300, trained_on=name).identity == first.identity
        assert cached.read_text() == whole


@pytest.mark.parametrize("vocabulary", [256, 0, -1, True, 300.0])
def test_a_vocabulary_below_the_bytes_and_the_end_of_text_is_refused(vocabulary):
    assert "257" in refusal(lambda: load_tokenizer("bpe", vocabulary, trained_on="python_reference"))


def test_the_smallest_bpe_is_bytes_and_the_end_of_text(tmp_path):
    assert load_tokenizer("bpe", 257, trained_on=write(tmp_path / "a.txt", prose(20_000))).size == 257


def test_tokenizers_that_cannot_be_are_refused_in_one_line(tmp_path):
    assert "did you mean 'bytes'" in refusal(lambda: load_tokenizer("byte"))
    assert "trained_on" in refusal(lambda: load_tokenizer("bpe"))
    assert "did you mean 'train'" in refusal(lambda: load_tokenizer("bpe", trained_on="python_reference", part="trian"))
    assert "unknown corpus 'absent'" in refusal(lambda: load_tokenizer("bpe", trained_on="absent"))
    np.save(tmp_path / "ids.npy", np.arange(1000))
    assert "tokens already" in refusal(lambda: load_tokenizer("bpe", trained_on=f"file:{tmp_path}/ids.npy"))


def byte_level(*added, end: str | None = "<|endoftext|>", **kwargs):
    """A byte-level tokenizer of another make: bytes, and `th`."""
    import tokenizers
    from tokenizers import AddedToken

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({char: k for k, char in enumerate([*alphabet, "th"])}, [("t", "h")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=kwargs.get("prefix", False))
    made.decoder = tokenizers.decoders.ByteLevel()
    if end:
        made.add_special_tokens([end])
    made.add_tokens([AddedToken(text, normalized=False) for text in added])
    return made


@pytest.mark.parametrize("end", ["<|endoftext|>", "</s>", "<|end_of_text|>"])
def test_a_tokenizer_file_brings_its_own_end_of_text(tmp_path, end):
    made = byte_level("    ", "qu", end=end)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(f"file:{tmp_path}/tokenizer.json")
    assert tokenizer.size == 260 and tokenizer.end_of_text == 257
    text = f"the    quür {end}"
    ids = tokenizer.encode([text])[0]
    assert tokenizer.byte_lengths[[256, 257, 258, 259]].tolist() == [2, 0, 4, 2]
    assert 258 in ids and 259 in ids and 257 not in ids
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode()) and tokenizer.decode(ids) == text
    assert load_tokenizer(f"file:{tmp_path}").identity == tokenizer.identity


def test_a_tokenizer_file_without_an_end_of_text_gets_one_behind_its_vocabulary(tmp_path):
    byte_level(end=None).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(f"file:{tmp_path}/tokenizer.json")
    assert (tokenizer.size, tokenizer.end_of_text) == (258, 257)


def test_a_tokenizer_file_that_cuts_and_pads_does_neither_here(tmp_path):
    made = byte_level()
    made.enable_truncation(3)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(f"file:{tmp_path}/tokenizer.json").encode(["xxxxx"])[0]) == 5


def test_tokenizer_files_that_lose_text_are_refused(tmp_path):
    import tokenizers

    wordpiece = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    for name, made in (("wordpiece", wordpiece), ("prefix", byte_level(prefix=True))):
        made.save(str(tmp_path / f"{name}.json"))
        assert "byte-level" in refusal(lambda name=name: load_tokenizer(f"file:{tmp_path}/{name}.json"))


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}', "[]", b"\xff\xfe"])
def test_a_damaged_tokenizer_file_is_one_line(tmp_path, content):
    name = write(tmp_path / "tokenizer.json", content)
    assert "damaged" in refusal(lambda: load_tokenizer(name))


def test_an_absent_tokenizer_file_is_named(tmp_path):
    assert str(tmp_path / "no.json") in refusal(lambda: load_tokenizer(f"file:{tmp_path}/no.json"))


def test_a_tokenizer_of_the_hub_comes_from_its_cache_when_offline(tmp_path, monkeypatch):
    import huggingface_hub

    byte_level().save(str(tmp_path / "tokenizer.json"))
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: asked.append((args, kwargs)) or str(tmp_path / "tokenizer.json"))
    assert load_tokenizer("hf:someone/model").size == 258
    assert asked == [(("someone/model", "tokenizer.json"), {"local_files_only": True})]

    def fails(*_, **__):
        raise OSError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    assert "no route; save its tokenizer.json" in refusal(lambda: load_tokenizer("hf:someone/model"), MissingData)


# ----------------------------------------------------------------------------------------------------------------------
# documents


@given(
    st.integers(0, 50),
    st.integers(1, 60_000),
    st.lists(st.integers(0, 9000), min_size=1, max_size=12),
    st.sampled_from([BLOCKS, Rule(r"^1\d* "), Rule(r"(?<=\n\n)", r"^2.*$")]),
)
@settings(deadline=None, max_examples=60)
def test_documents_do_not_depend_on_how_the_text_arrives(seed, size, steps, rule):
    text = prose(size, seed).encode()
    chunks, at = [], 0
    for step in itertools.cycle([*steps, 400]):
        chunks.append(text[at : at + step])
        at += step
        if at >= len(text):
            break
    assert list(split(chunks, rule)) == list(split([text], rule))


@given(st.integers(0, 50), st.integers(1, 60_000), st.sampled_from([BLOCKS, ROWS, Rule(r"^1\d* ")]))
@settings(deadline=None, max_examples=60)
def test_documents_together_are_the_text(seed, size, rule):
    text = prose(size, seed).encode()
    documents = list(split([text], rule))
    assert b"".join(documents).replace(b"\n", b"") == text.replace(b"\n", b"")
    block = 16384 if rule is ROWS else block_size(len(text))
    assert max(map(len, documents)) <= 2 * block + rule.smallest


def test_a_block_is_16_kb_and_a_512th_of_a_small_text():
    assert [block_size(n) for n in (10, 524_288, 1 << 20, 1 << 23, 1 << 40)] == [1024, 1024, 2048, 16384, 16384]


def test_blocks_end_at_a_paragraph():
    paragraphs = prose(40_000).strip("\n").split("\n\n")
    for document in split([prose(40_000).encode()]):
        assert set(document.decode().split("\n\n")) <= set(paragraphs)


def test_text_without_paragraphs_is_cut_at_lines_blanks_or_whole_characters():
    line = "sieben Brücken " * 4
    lines = list(split([(line.strip() + "\n").encode() * 1000]))
    assert len(lines) > 10 and all(row == line.strip() for document in lines for row in document.decode().split("\n"))
    words = list(split(["Brücke ".encode() * 5000]))
    assert len(words) > 10 and all(word == "Brücke" for document in words for word in document.decode().split())
    characters = list(split(["数".encode() * 5000]))
    assert len(characters) > 5 and "".join(document.decode() for document in characters) == "数" * 5000


def test_a_rule_says_where_documents_start_and_what_is_dropped():
    chapter = "It was a dark night. " * 60
    text = f"CHAPTER I\n\nCHAPTER II\n\n\nCHAPTER I\n\n{chapter}1\n\nProduced by Somebody\n\nCHAPTER II\n\n{chapter}2 CHAPTER X\n"
    documents = list(split([text.encode()], KNOWN_RULES["english_novels"]))
    assert [document.decode() for document in documents] == [
        f"CHAPTER I\n\nCHAPTER II\n\n\nCHAPTER I\n\n{chapter}1",  # the table of contents goes with the first chapter
        f"CHAPTER II\n\n{chapter}2 CHAPTER X",
    ]


def test_what_is_longer_than_two_blocks_is_cut_whatever_the_rule():
    text = "".join(f"# {k}\n\n" + prose(3_000 if k else 30_000, k) for k in range(4))
    documents = list(split([text.encode()], Rule(r"^# ")))
    assert sum(document.startswith(b"# ") for document in documents) == 4
    assert len(documents) > 15 and max(map(len, documents)) <= 2 * 1024 + 256


def test_no_document_crosses_a_border_and_blank_ones_are_left_out():
    assert list(split([b"a\n", None, None, b"\n \n", None, b"\r\nb", b"c\r\n", None])) == [b"a", b"bc"]
    assert list(split([])) == list(split([b""])) == []


def test_the_hash_decides_the_part_at_the_percentiles():
    def around(*percentiles: int) -> list[bytes]:
        """Digests at the percentiles, each the last below and the first not below."""
        firsts = [-(-p * 2**64 // 100) for p in percentiles]
        return [bytes(8) + value.to_bytes(8, "big") + bytes(16) for value in (0, *(first - step for first in firsts for step in (1, 0)), 2**64 - 1)]

    assert [part_of(digest, "none") for digest in around(95)] == ["train", "train", "validation", "validation"]
    expected = [part for part in ("tuning-train", "tuning-validation", "evaluation-train", "evaluation-validation") for _ in range(2)]
    assert [part_of(digest, "two-phase") for digest in around(45, 50, 95)] == expected


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=60), st.integers(1, 5))
def test_shards_are_disjoint_and_together_whole_and_keep_the_first_of_duplicates(documents, n):
    whole = [document for document, _ in unique(documents)]
    assert whole == list(dict.fromkeys(documents))
    shards = [[document for document, _ in unique(documents, (k, n))] for k in range(n)]
    assert sorted(itertools.chain(*shards)) == sorted(whole)
    assert sum(len(set(shard)) for shard in shards) == len(set(whole))


def test_shards_say_nothing_about_parts():
    counts = np.zeros((2, 4))
    for k in range(20_000):
        digest = digest_of(b"%d" % k)
        counts[int(next(unique([b"%d" % k], (1, 2)), None) is not None), SPLITS["two-phase"].index(part_of(digest, "two-phase"))] += 1
    share = np.array([0.45, 0.05, 0.45, 0.05])
    assert (np.abs(counts - 10_000 * share) < 5 * np.sqrt(10_000 * share)).all()


# ----------------------------------------------------------------------------------------------------------------------
# files


def test_every_layout_of_a_text_is_the_same_corpus(tmp_path):
    text = prose(80_000).encode()
    layouts = [
        write(tmp_path / "a" / "text.txt", text),
        write(tmp_path / "b" / "other.txt.xz", lzma.compress(text)),
        write(tmp_path / "c" / "text.TXT.gz", gzip.compress(text)),
        write(tmp_path / "d" / "text.md", b"\xef\xbb\xbf" + text),
        f"file:{tmp_path / 'a'}",
    ]
    found = [load_corpus(name, BYTES) for name in layouts]
    assert len({corpus.identity for corpus in found}) == 1
    for part in PARTS:
        assert len({corpus.tokens(part).tobytes() for corpus in found}) == 1
        assert len({corpus.documents(part).tobytes() for corpus in found}) == 1
    assert load_corpus(write(tmp_path / "e.txt", text + b"more"), BYTES).identity != found[0].identity


def rows(count: int = 300) -> list[str]:
    return [f"row {k}\n" + "Größe 数 " * (k % 7) + "\nend" for k in range(count)]


def parquet(path: Path, table: dict, **kwargs) -> str:
    import pyarrow as arrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(table), path, **kwargs)
    return f"file:{path}"


def test_rows_of_json_lines_and_parquet_are_documents(tmp_path):
    import pyarrow as arrow

    texts = rows()
    lines = "".join(json.dumps({"id": k, "content": text}) + "\n\n" for k, text in enumerate(texts)).encode()
    layouts = [
        write(tmp_path / "rows.jsonl", lines) + "?field=content",
        write(tmp_path / "rows.jsonl.gz", gzip.compress(lines)) + "?field=content",
        parquet(tmp_path / "rows.parquet", {"id": list(range(301)), "text": [*texts, None]}, row_group_size=37),
        parquet(tmp_path / "words.parquet", {"text": arrow.array(texts).dictionary_encode()}),
    ]
    for name in layouts:
        corpus = load_corpus(name, BYTES)
        assert documents_in(corpus, "train") + documents_in(corpus, "validation") == sorted(
            (text.encode() for text in texts), key=lambda text: (part_of(digest_of(text), "none") != "train", int(text.split()[1]))
        )
    assert len({load_corpus(name, BYTES).identity for name in layouts}) == 1


def test_rows_stay_whole_up_to_two_full_blocks(tmp_path):
    texts = [f"{k} " + "x" * 20_000 for k in range(60)] + ["y " * 30_000]
    corpus = load_corpus(write(tmp_path / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts)), BYTES)
    found = [document.decode() for part in SPLITS["none"] for document in documents_in(corpus, part)]
    assert set(texts[:60]) < set(found)
    cut = [text for text in found if text.startswith("y")]
    assert cut and all(8192 < len(text) <= 2 * 16384 for text in cut)


def test_a_folder_is_its_files_in_name_order_with_a_border_between(tmp_path):
    texts = [f"text {k}" for k in (2, 0, 1)] * 20
    for k, text in enumerate(f"{k} {text}" for k, text in enumerate(texts)):
        write(tmp_path / "folder" / f"{k:03}.txt", text)
    write(tmp_path / "folder" / ".hidden.txt", "no")
    write(tmp_path / "folder" / "picture.png", b"\x89PNG")
    found = [document for document, _ in open_text(f"file:{tmp_path}/folder").documents()]
    assert found == [f"{k} {text}".encode() for k, text in enumerate(texts)]


def test_what_an_e_book_maker_adds_is_dropped(tmp_path):
    bodies = [prose(1_000_000, 1), prose(150_000, 2)]
    book = (
        "The Project Gutenberg eBook of X\n\n*** START OF THE PROJECT GUTENBERG EBOOK {0} ***\n{1}\n*** END OF THIS PROJECT GUTENBERG EBOOK {0} ***\n"
        + "licence " * 3000
    )
    digits = "".join(map(str, range(20_000)))
    for pad in (0, 1, 20, 48_400):  # marks at and across the borders of what is read at once
        text = "".join(book.format(f"BOOK {k}", (digits[:pad] if k == 0 else "") + body) for k, body in enumerate(bodies))
        found = b"\n".join(document for document, _ in open_text(write(tmp_path / "book.txt", text)).documents())
        expected = digits[:pad] + "".join(bodies)
        assert found.replace(b"\n", b"") == expected.encode().replace(b"\n", b"")


@pytest.mark.parametrize("offset", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path, offset):
    text = b"a" * offset + b"\xfc" + b"b" * 50
    message = refusal(lambda: load_corpus(write(tmp_path / "latin1.txt", text), BYTES).tokens("train"))
    assert f"byte {offset} " in message and "latin1.txt" in message
    message = refusal(lambda: load_corpus(write(tmp_path / "latin1.txt.gz", gzip.compress(text)), BYTES).identity)
    assert f"byte {offset} " in message


def test_a_character_across_two_reads_is_whole_and_half_a_character_at_the_end_is_refused(tmp_path):
    text = b"a" * ((1 << 20) - 1) + "ü".encode() * 2000
    assert sum(len(document) for document, _ in unique(split([text]))) > 0
    corpus = load_corpus(write(tmp_path / "a.txt", text + "\n数".encode()), BYTES)
    assert corpus.identity
    message = refusal(lambda: load_corpus(write(tmp_path / "b.txt", text + b"\n" + "数".encode()[:2]), BYTES).identity)
    assert f"byte {len(text) + 1} " in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.xz", lzma.compress(prose(50_000).encode())[:-100]),
        ("a.txt.xz", b"no xz at all"),
        ("a.txt.gz", gzip.compress(prose(50_000).encode())[:-100]),
        ("a.txt.gz", b"x"),
        ("a.parquet", b"PAR1"),
        ("a.npy", b"\x93NUMPY"),
        ("a.npy", b""),
    ],
    ids=["cut xz", "no xz", "cut gzip", "no gzip", "no Parquet", "cut npy", "empty npy"],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, content):
    path = write(tmp_path / name, content)
    message = refusal(lambda: load_corpus(path, BYTES).tokens("train"))
    assert name in message and "damaged" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", ""), ("a.txt", " \n\n \n"), ("a.jsonl", ""), ("a.txt.gz", gzip.compress(b"", mtime=0)), ("a.bin", ""), ("a.jsonl", '{"text": ""}\n')],
)
def test_an_empty_file_is_refused(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert "is empty" in refusal(lambda: load_corpus(path, BYTES).tokens("train"))


def test_a_single_document_cannot_be_divided(tmp_path):
    message = refusal(lambda: load_corpus(write(tmp_path / "a.txt", "One sentence."), BYTES).tokens("train"))
    assert "would be empty" in message and "only 1 document;" in message
    assert not list((tmp_path / "cache" / "clsuite" / "tokens").iterdir())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"body": "x", "id": 3}', "line 3 has no field 'text' (it has 'body', 'id')"),
        ('"text"', "line 3 has no field 'text' (it is str)"),
        ("{", "line 3 is not valid JSON"),
        ('{"text": 3}', "line 3: field 'text' is int, expected text"),
        ('{"text": "\\ud800"}', "line 3: field 'text' holds half a surrogate pair at character 0"),
    ],
)
def test_a_bad_json_line_is_refused_with_its_number(tmp_path, line, expected):
    name = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n\n{line}\n')
    assert expected in refusal(lambda: load_corpus(name, BYTES).identity)


def test_json_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    name = write(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "\xfc"}\n')
    assert "line 2 is not valid JSON" in refusal(lambda: load_corpus(name, BYTES).identity)


def test_parquet_without_a_text_column_is_refused(tmp_path):
    name = parquet(tmp_path / "a.parquet", {"body": ["x"], "id": [1]})
    assert "no column 'text' (it has body, id)" in refusal(lambda: load_corpus(name, BYTES).identity)
    assert "column 'id' is int64" in refusal(lambda: load_corpus(f"{name}?field=id", BYTES).identity)
    assert load_corpus(f"{name}?field=body", BYTES).identity


def test_folders_and_fields_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    assert "holds no file to read" in refusal(lambda: load_corpus(f"file:{tmp_path}/none", BYTES))
    write(tmp_path / "mixed" / "a.txt", "a")
    write(tmp_path / "mixed" / "b.bin", b"\0\0")
    assert "mixes tokens (b.bin) and text (a.txt)" in refusal(lambda: load_corpus(f"file:{tmp_path}/mixed", BYTES))
    assert "field 'x' is for .jsonl" in refusal(lambda: load_corpus(f"file:{tmp_path}/mixed/a.txt?field=x", BYTES))
    assert "is no file and no folder" in refusal(lambda: load_corpus(f"file:{tmp_path}/absent.txt", BYTES), MissingData)


# ----------------------------------------------------------------------------------------------------------------------
# token files


def token_rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.array([*rng.integers(0, 256, rng.integers(1, 300)), k % 256, k // 256]) for k in range(400)]


def joined(documents: list[np.ndarray], end: int = 256) -> np.ndarray:
    return np.concatenate([np.append(ids, end) for ids in documents])


def test_token_files_are_taken_as_they_are(tmp_path):
    documents = token_rows()
    ids = joined(documents)
    np.save(tmp_path / "a.npy", ids)
    np.save(tmp_path / "b.npy", ids.astype(np.uint16)[:-1])  # the last end of text may be missing
    ids.astype("<u2").tofile(tmp_path / "c.bin")
    found = [load_corpus(f"file:{tmp_path}/{name}", BYTES) for name in ("a.npy", "b.npy", "c.bin")]
    assert len({corpus.identity for corpus in found}) == 1
    for part in PARTS:
        members = [row for row in documents if part_of(digest_of(row), "none" if part in SPLITS["none"] else "two-phase") == part]
        for corpus in found:
            assert np.array_equal(corpus.tokens(part), joined(members))
            assert corpus.bytes(part) == sum(map(len, members)) and len(corpus.documents(part)) == len(members)


def test_long_documents_of_tokens_are_cut_into_blocks(tmp_path):
    ids = np.random.default_rng(0).integers(0, 256, 5_000_000).astype("<u2")
    ids.tofile(tmp_path / "a.bin")
    corpus = load_corpus(f"file:{tmp_path}/a.bin", BYTES)
    pieces = [document for document, _ in open_text(f"file:{tmp_path}/a.bin").documents(BYTES)]
    assert np.array_equal(np.concatenate(pieces), ids) and max(map(len, pieces)) <= 2 * block_size(len(ids))
    assert sum(len(corpus.tokens(part)) for part in SPLITS["none"]) == len(ids) + len(pieces)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, 2, 257]), "token 2 is 257, the tokenizer has ids 0..256"),
        (np.array([1, -2, 3]), "token 1 is -2"),
        (np.array([1.0, 2.0]), "float64"),
        (np.array([[1, 2]]), "one dimension"),
        (np.array([True]), "bool"),
    ],
)
def test_token_files_with_anything_else_are_refused(tmp_path, values, expected):
    np.save(tmp_path / "a.npy", values)
    message = refusal(lambda: load_corpus(f"file:{tmp_path}/a.npy", BYTES).tokens("train"))
    assert expected in message and "a.npy" in message


def test_half_a_token_is_refused(tmp_path):
    assert "3 bytes" in refusal(lambda: load_corpus(write(tmp_path / "a.bin", b"abc"), BYTES).tokens("train"))


# ----------------------------------------------------------------------------------------------------------------------
# token arrays


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


def test_tokens_are_mapped_read_only_and_small(tmp_path, trained):
    name = write(tmp_path / "a.txt", prose(80_000))
    for tokenizer in (BYTES, trained):
        tokens = load_corpus(name, tokenizer).tokens("train")
        assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16 and tokens.ndim == 1 and not tokens.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            load_corpus(name, tokenizer).documents("train")[0] = 1
        assert tokenizer.byte_lengths[tokens].sum() == load_corpus(name, tokenizer).bytes("train")


def test_every_tokenizer_sees_the_same_documents(tmp_path, trained):
    name = write(tmp_path / "a.txt", prose(80_000))
    one, other = load_corpus(name, BYTES), load_corpus(name, trained)
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


# ----------------------------------------------------------------------------------------------------------------------
# names


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


# ----------------------------------------------------------------------------------------------------------------------
# embedded, synthetic, hub


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


def test_synthetic_corpora_are_functions_of_their_name(monkeypatch, trained):
    monkeypatch.setattr(synthetic, "DOCUMENTS", 700)
    found = {name: load_corpus(name, BYTES) for name in ("synthetic:1", "synthetic:1:0", "synthetic:1:0.5", "synthetic:2")}
    assert found["synthetic:1"].identity == found["synthetic:1:0"].identity
    assert len({corpus.identity for corpus in found.values()}) == 3
    assert not set(found["synthetic:1"].documents("train").tolist()) & set(found["synthetic:1:0.5"].documents("train").tolist())
    assert sum(corpus.bytes(part) for corpus in [found["synthetic:2"]] for part in SPLITS["none"]) == 700 * 4095
    assert load_corpus("synthetic:1", trained).entropy is None and load_corpus("synthetic:1#0/2", BYTES).entropy == found["synthetic:1"].entropy


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


# ----------------------------------------------------------------------------------------------------------------------
# windows


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


def test_a_tokenizer_file_is_what_it_was_made_from(tmp_path):
    content = byte_level().to_str()
    assert FileTokenizer("x", content).identity == FileTokenizer("y", content).identity != FileTokenizer("x", byte_level("qq").to_str()).identity
