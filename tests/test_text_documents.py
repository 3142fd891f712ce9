"""Documents: where they begin and end, which part they belong to, and shards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clsuite.data.text.corpus import SPLITS
from clsuite.data.text.documents import BLOCKS, KNOWN_RULES, ROWS, Rule, block_size, digest_of, part_of, split, unique

from .text_files import prose

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]


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
