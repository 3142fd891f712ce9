"""Files of text and of tokens: every layout is the same corpus, and what is damaged or empty is one line."""

from __future__ import annotations

import gzip
import json
import lzma

import numpy as np
import pytest

from clsuite.data.text.corpus import PARTS, SPLITS, load_corpus
from clsuite.data.text.documents import block_size, digest_of, part_of, split, unique
from clsuite.data.text.names import open_text
from clsuite.errors import MissingData

from .text_files import BYTES, documents_in, parquet, prose, refusal, rows, write

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]


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


# -- token files ------------------------------------------------------------------------------------------------


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
