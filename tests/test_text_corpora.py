"""The real corpora: they load, their parts are disjoint and have the shares they should, shards divide them."""

from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest

from clsuite.data.text import corpus as corpora
from clsuite.data.text.corpus import SPLITS, load_corpus
from clsuite.data.text.names import open_text
from clsuite.data.text.tokenizer import load_tokenizer

REAL = os.environ.get("CLSUITE_DATA", "")
pytestmark = [pytest.mark.data, pytest.mark.skipif(not os.path.isdir(REAL), reason="CLSUITE_DATA is unset or not a folder")]

BYTES = load_tokenizer("bytes")
PLAIN_BYTES = {
    "english_novels": 9_286_644,
    "german_drama": 9_010_448,
    "german_law": 11_091_135,
    "latex_algebraic_geometry": 11_999_310,
    "latin_prose": 9_020_856,
    "medical_abstracts": 1_710_162,
    "tiny_shakespeare": 1_115_394,
    "wikitext2_test": 1_256_449,
    "wikitext2_valid": 1_121_681,
}
"""Of the files, as their description says."""


@pytest.fixture(scope="module", autouse=True)
def fresh(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(corpora, "_LOADED", {})
        yield


@pytest.mark.parametrize("name", PLAIN_BYTES)
def test_parts_have_their_shares_and_share_no_document(name):
    corpus = load_corpus(name, BYTES, REAL)
    for parts, shares in ((SPLITS["none"], (95, 5)), (SPLITS["two-phase"], (45, 5, 45, 5))):
        sizes = np.array([corpus.bytes(part) for part in parts])
        found = 100 * sizes / sizes.sum()
        print(name, dict(zip(parts, found.round(2).tolist(), strict=True)))
        for part, share, expected in zip(parts, found, shares, strict=True):
            assert 3 < share < 7 if part.endswith("validation") else abs(share - expected) < 5, (part, share)
        digests = [corpus.documents(part) for part in parts]
        assert len(np.unique(np.concatenate(digests))) == sum(map(len, digests))
        for part in parts:
            assert len(corpus.tokens(part)) == corpus.bytes(part) + len(corpus.documents(part))


@pytest.mark.parametrize("name", PLAIN_BYTES)
def test_nearly_all_of_a_file_is_kept(name):
    corpus = load_corpus(name, BYTES, REAL)
    kept = sum(corpus.bytes(part) for part in SPLITS["none"])
    assert 0.998 * PLAIN_BYTES[name] < kept < PLAIN_BYTES[name]


def documents(name: str) -> list[str]:
    return [document.decode() for document, _ in open_text(name, REAL).documents() if isinstance(document, bytes)]


def test_documents_are_what_the_rules_call_them():
    novels = documents("english_novels")
    titles = [
        k for k, text in enumerate(novels) if re.search(r"^(WAR AND PEACE|DAVID COPPERFIELD|Middlemarch|MOBY-DICK;|GREAT EXPECTATIONS)$", text, re.MULTILINE)
    ]
    chapters = [sum(bool(re.match(r"(CHAPTER|Chapter) [IVXLC\d]+\b", text)) for text in novels[a:b]) for a, b in itertools.pairwise([*titles, len(novels)])]
    # War and Peace has 365 chapters, 17 of them behind the heading of a book or epilogue; the first of Great Expectations' 59 is behind its title
    assert (chapters[0], chapters[1], chapters[4]) == (365 - 17, 64, 59 - 1)
    # Middlemarch has 86 and Moby-Dick 135, of which the shortest go with the next, and both a table of contents
    assert 86 <= chapters[2] <= 88 and 130 <= chapters[3] <= 140
    assert len(documents("medical_abstracts")) == 1000  # as the description of the file says
    assert sum(text.startswith(" = ") for text in documents("wikitext2_test")) >= 60
    sections = [text for text in documents("german_law") if text.startswith("#") and re.search(r"^#+ (§|Art)", text, re.MULTILINE)]
    assert len(sections) > 6000
    assert sum(text.startswith("\\section{") for text in documents("latex_algebraic_geometry")) > 1300


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("english_novels", r"^Produced by |David Widger|etext98"),
        ("german_drama", r"Copyright \d{4}|Alle Rechte vorbehalten"),
        ("latin_prose", r"^The (Latin Library|Classics Page)$"),
        ("latex_algebraic_geometry", r"Permission is granted to copy"),
    ],
)
def test_licences_and_e_book_marks_are_dropped(name, mark):
    assert not [text for text in documents(name) if re.search(mark, text, re.MULTILINE)]


def test_halves_of_the_novels_are_disjoint_and_together_whole():
    whole, *halves = (load_corpus(f"english_novels{shard}", BYTES, REAL) for shard in ("", "#0/2", "#1/2"))
    for parts in SPLITS.values():
        for part in parts:
            digests = [half.documents(part) for half in halves]
            assert not np.intersect1d(*digests).size
            assert np.array_equal(np.union1d(*digests), whole.documents(part))
            assert sum(half.bytes(part) for half in halves) == whole.bytes(part)
    assert len(np.intersect1d(halves[0].documents("train"), halves[1].documents("validation"))) == 0
    assert 0.4 < halves[0].bytes("train") / whole.bytes("train") < 0.6


def test_bpe_of_the_novels_measures_german_latin_and_latex_byte_for_byte():
    tokenizer = load_tokenizer("bpe", 2048, trained_on="english_novels", part="tuning-train", data_root=REAL)
    assert tokenizer.size == 2048
    for name in ("german_law", "latin_prose", "latex_algebraic_geometry", "wikitext2_valid"):
        texts = documents(name)[:60]
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
            assert tokenizer.byte_lengths[ids].sum() == len(text.encode()) and tokenizer.decode(ids) == text
    corpus = load_corpus("wikitext2_valid", tokenizer, REAL)
    assert tokenizer.byte_lengths[corpus.tokens("validation")].sum() == corpus.bytes("validation")
    assert corpus.identity == load_corpus("wikitext2_valid", BYTES, REAL).identity
