"""Tokenizers: bytes, BPE that is trained here, and files of other makes; every text comes back byte for byte."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clsuite.data.text import names
from clsuite.data.text.corpus import SPLITS
from clsuite.data.text.documents import digest_of, part_of
from clsuite.data.text.tokenizer import FileTokenizer, load_tokenizer
from clsuite.errors import MissingData

from .text_files import BYTES, prose, refusal, write

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]

TEXTS = [
    "Drum prüfe, wer sich ewig bindet, ob sich das Herz zum Herzen findet! – „Größe“ süß, Öl, Ä.",
    "Gallia est omnis divisa in partes tres, quarum unam incolunt Belgæ; cōnsilium.",
    "\\begin{lemma}\n\\label{lemma-a}\nLet $f : X \\to Y$ be étale, $\\mathcal{O}_X$.\n\\end{lemma}\r\n\t% end",
    "<|endoftext|> is text here; 数学 🙂\u00a0\u2009x",
]


def test_the_byte_tokenizer_has_a_byte_an_id():
    assert BYTES.encode(["Grüße", b"a"])[0].tolist() == [71, 114, 0xC3, 0xBC, 0xC3, 0x9F, 101]
    assert (BYTES.name, BYTES.size, BYTES.end_of_text) == ("bytes", 257, 256)
    assert BYTES.byte_lengths.dtype == np.int32 and BYTES.byte_lengths.tolist() == [1] * 256 + [0]
    assert BYTES.encode(["x"])[0].dtype == np.uint16


@given(st.text())
def test_bytes_give_every_text_back(text):
    assert BYTES.decode(BYTES.encode([text])[0]) == text
    assert BYTES.decode([*BYTES.encode([text])[0], 256]) == text


@pytest.mark.parametrize("text", TEXTS)
def test_byte_lengths_of_tokens_add_up_to_the_text(bpe, text):
    ids = bpe.encode([text])[0]
    assert bpe.byte_lengths[ids].sum() == len(text.encode())
    assert bpe.decode(ids) == text
    assert len(ids) < len(text.encode())


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bpe_gives_every_text_back_byte_for_byte(bpe, text):
    ids = bpe.encode([text])[0]
    assert bpe.decode(ids) == text and bpe.byte_lengths[ids].sum() == len(text.encode())


def test_bpe_has_the_vocabulary_asked_for_and_the_end_of_text_is_no_text(bpe):
    assert bpe.size == len(bpe.byte_lengths) == 400
    assert bpe.byte_lengths[bpe.end_of_text] == 0 and (np.delete(bpe.byte_lengths, bpe.end_of_text) > 0).all()
    ids = bpe.encode(["a<|endoftext|>b"])[0]
    assert bpe.end_of_text not in ids and bpe.byte_lengths[ids].sum() == 15
    assert bpe.decode([*ids, bpe.end_of_text]) == "a<|endoftext|>b"


def test_bpe_has_every_byte_even_those_it_never_saw(bpe):
    text = "".join(map(chr, range(1, 0x250)))
    assert bpe.decode(bpe.encode([text])[0]) == text


def test_bpe_training_is_deterministic(bpe, tmp_path, monkeypatch):
    name = write(tmp_path / "elsewhere.txt", prose(60_000))
    assert load_tokenizer("bpe", 400, trained_on=name).identity == bpe.identity
    assert load_tokenizer("bpe", 401, trained_on=name).identity != bpe.identity
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert load_tokenizer("bpe", 400, trained_on=name).identity == bpe.identity


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


def test_a_tokenizer_file_is_what_it_was_made_from(tmp_path):
    content = byte_level().to_str()
    assert FileTokenizer("x", content).identity == FileTokenizer("y", content).identity != FileTokenizer("x", byte_level("qq").to_str()).identity
