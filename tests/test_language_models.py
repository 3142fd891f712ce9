"""Language models: the networks of transformers, wrapped; their sizes, groups and checkpoints."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clsuite.errors import MissingData, UsageError
from clsuite.models.base import Model
from clsuite.models.language import GPTNeoX, LanguageModel, LanguageNetwork, Llama, decayed_parameters, flops_per_token
from clsuite.models.language_checkpoint import save_checkpoint
from clsuite.models.mlp import MLP

pytestmark = pytest.mark.unit

CONTEXT, BYTES, PADDED = 16, 257, 50_304
BOTH = pytest.mark.parametrize("kind", [GPTNeoX, Llama], ids=lambda kind: kind.name)
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def build(model: LanguageModel, context: int = CONTEXT, vocabulary: int = BYTES, seed: int = 0, data_root: str | None = None) -> LanguageNetwork:
    torch.manual_seed(seed)
    network = model.build((context,), vocabulary, data_root)
    assert isinstance(network, LanguageNetwork)
    return network


def sketch(model: LanguageModel, vocabulary: int) -> LanguageNetwork:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(model, 2048, vocabulary)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def ids(batch: int = 2, context: int = CONTEXT, vocabulary: int = BYTES) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, context), generator=torch.Generator().manual_seed(5))


def bare(name: str, tied: bool, **changes: Any) -> Any:
    """The `xxs` network as a user of transformers would write it down."""
    import transformers

    common = {"vocab_size": BYTES, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "tie_word_embeddings": tied}
    if name == "gpt_neox":
        config: Any = transformers.GPTNeoXConfig(**{**common, "intermediate_size": 256, "rotary_pct": 0.25, **changes})
        return transformers.GPTNeoXForCausalLM(config)
    config = transformers.LlamaConfig(**{**common, "intermediate_size": 176, **changes})
    return transformers.LlamaForCausalLM(config)


def refused(model: LanguageModel, *, context: int = CONTEXT, vocabulary: int = BYTES, data_root: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        model.build((context,), vocabulary, data_root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root and no cache in reach, and no network."""
    from huggingface_hub import constants

    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LanguageNetwork]:
    """A folder and the network written to it: gpt_neox, 64 tokens, 16 positions."""
    network = build(GPTNeoX(layers=2, tied=False, rotary=0.5), vocabulary=64)
    return save_checkpoint(network, tmp_path_factory.mktemp("checkpoints") / "small"), network


@pytest.fixture
def folder(saved: tuple[Path, LanguageNetwork], tmp_path: Path) -> Path:
    """A copy of the saved folder that a test may spoil."""
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


# Networks


def test_transformers_is_imported_by_what_builds_a_network_not_by_the_module() -> None:
    code = "import clsuite.models.language, sys; sys.exit('transformers' in sys.modules or 'huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 0


@BOTH
def test_language_models_read_text_and_the_others_images(kind: type[LanguageModel]) -> None:
    assert (kind.world, MLP.world, Model.world) == ("text", "images", "images")
    with pytest.raises(UsageError, match="reads text: it cannot be trained on images"):
        kind().build((3, 32, 32), 10, None)


@BOTH
@TIED
def test_scores_loss_and_gradients_are_those_of_transformers(kind: type[LanguageModel], tied: bool) -> None:
    network, other = build(kind(tied=tied)), bare(kind.name, tied)
    prefix = other.base_model_prefix
    state = {re.sub("^body", prefix, name).replace("head.", "lm_head."): tensor for name, tensor in network.state_dict().items()}
    assert not other.load_state_dict(state).missing_keys
    x = ids()
    scores, reference = network(x), other(x, labels=x)
    assert scores.shape == (2, CONTEXT, BYTES) and scores.std() > 0.01
    torch.testing.assert_close(scores, reference.logits, rtol=0, atol=1e-6)

    loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(loss, reference.loss, rtol=0, atol=1e-6)
    loss.backward()
    reference.loss.backward()
    expected = {name: p.grad for name, p in other.named_parameters()}
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[re.sub("^body", prefix, name).replace("head.", "lm_head.")], rtol=1e-4, atol=1e-7)


@BOTH
def test_scores_are_the_head_on_the_features(kind: type[LanguageModel]) -> None:
    network, x = build(kind(width=48, heads=2)), ids()
    features = network.features(x)
    assert features.shape == (2, CONTEXT, 48)
    assert network.head.bias is None
    assert torch.equal(network(x), features @ network.head.weight.T)


@BOTH
def test_attention_is_causal_without_a_mask(kind: type[LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, bool]] = []
    real = F.scaled_dot_product_attention

    def spy(*args: Any, **options: Any) -> torch.Tensor:
        calls.append((options.get("attn_mask"), options.get("is_causal", False)))
        return real(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    network, x = build(kind()), ids()
    changed = x.clone()
    changed[:, 9] = (x[:, 9] + 1) % BYTES
    before, after = network(x), network(changed)
    assert calls == [(None, True)] * 6  # three layers, twice
    assert torch.equal(before[:, :9], after[:, :9])
    assert (before[:, 9:] != after[:, 9:]).any(-1).all()


@BOTH
@TIED
def test_the_seed_gives_the_weights_transformers_starts_with(kind: type[LanguageModel], tied: bool) -> None:
    def same(a: LanguageNetwork, b: torch.nn.Module) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

    network = build(kind(tied=tied), seed=3)
    assert same(network, build(kind(tied=tied), seed=3))
    assert not same(network, build(kind(tied=tied), seed=4))
    torch.manual_seed(3)
    assert same(network, bare(kind.name, tied))


@BOTH
def test_dropout_acts_in_training_only_and_only_when_asked_for(kind: type[LanguageModel]) -> None:
    x = ids()
    plain, dropping = build(kind()), build(kind(dropout=0.3))
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(dropping(x), dropping(x))
    assert torch.equal(dropping.eval()(x), plain(x))


@pytest.mark.parametrize(
    ("size", "total"),
    [
        # 2 V d for embedding and head, 12 d^2 + 13 d a layer, 2 d for the last norm; V = 50,304
        ("pythia-14m", 2 * PADDED * 128 + 6 * (12 * 128**2 + 13 * 128) + 2 * 128),
        ("pythia-31m", 2 * PADDED * 256 + 6 * (12 * 256**2 + 13 * 256) + 2 * 256),
        ("pythia-70m", 70_426_624),  # this and what follows: the published totals as remembered
        ("pythia-160m", 162_322_944),
        ("pythia-410m", 405_334_016),
    ],
)
def test_a_pythia_by_name_has_its_number_of_parameters(size: str, total: int) -> None:
    assert parameters(sketch(GPTNeoX(size=size), PADDED)) == total


def test_a_pythia_has_a_parallel_residual_quarter_rotary_and_no_dropout() -> None:
    config = build(GPTNeoX(size="pythia-14m")).config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size) == (6, 128, 4, 512)
    assert config.use_parallel_residual and not config.tie_word_embeddings
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    assert config.hidden_dropout == config.attention_dropout == 0


def test_the_large_llama_is_that_of_the_published_runs() -> None:
    assert round(parameters(sketch(Llama(size="l"), PADDED)) / 1e6, 2) == 123.59  # Schaipp et al.'s logs


@BOTH
@pytest.mark.parametrize(
    ("size", "vocabulary", "low", "high"),
    [("xxs", BYTES, 0.15, 0.25), ("xs", BYTES, 0.9, 1.1), ("s", 8_000, 5, 10), ("m", 8_000, 28, 32), ("l", 50_257, 122, 126)],
)
def test_sizes_are_as_large_as_they_are_called(kind: type[LanguageModel], size: str, vocabulary: int, low: float, high: float) -> None:
    assert low < parameters(sketch(kind(size=size), vocabulary)) / 1e6 < high


@BOTH
def test_settings_replace_what_the_size_says(kind: type[LanguageModel]) -> None:
    config = build(kind(layers=1, width=32, heads=4, intermediate=20, tied=False), context=40).config
    found = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size, config.tie_word_embeddings)
    assert found == (1, 32, 4, 20, False)
    assert (config.max_position_embeddings, config.vocab_size) == (40, BYTES)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GPTNeoX(heads=5), "model.heads = 5 does not divide the width 64"),
        (Llama(width=6, heads=2), "model.heads = 2: rotary positions would turn 3 of the 3 dimensions of a head"),
        (GPTNeoX(rotary=0.1), "model.rotary = 0.1: rotary positions would turn 3 of the 32 dimensions of a head"),
        (GPTNeoX(checkpoint_revision="step1"), "model.checkpoint_revision = 'step1' needs model.checkpoint"),
    ],
)
def test_shapes_that_cannot_be_are_refused(model: LanguageModel, message: str) -> None:
    assert refused(model).startswith(message)


# Parameters by kind


@BOTH
@TIED
def test_every_parameter_is_in_one_group(kind: type[LanguageModel], tied: bool) -> None:
    network = build(kind(tied=tied))
    groups = network.groups()
    assert groups["all"] == [name for name, _ in network.named_parameters()]
    assert sorted(name for key, names in groups.items() if key != "all" for name in names) == sorted(groups["all"])
    assert list(groups) == ["all", "head", "norm", "first_layer", "embedding", "block:layers.0", "block:layers.1", "block:layers.2"]
    assert groups["first_layer"] == []
    assert len(groups["norm"]) == (3 * 2 + 1) * (2 if kind is GPTNeoX else 1)  # two a layer and the last: LayerNorm has a shift as well
    assert all("norm" in name for name in groups["norm"])


def test_a_tied_embedding_belongs_to_the_head() -> None:
    tied, untied = build(GPTNeoX(tied=True)), build(GPTNeoX(tied=False))
    assert tied.select("embedding") == []
    assert [id(p) for p in tied.select("head")] == [id(tied.head.weight)] == [id(tied.body.embed_in.weight)]
    assert untied.groups()["head"] == ["head.weight"]
    assert untied.groups()["embedding"] == ["body.embed_in.weight"]


def test_a_copy_of_a_tied_network_is_tied() -> None:
    network = copy.deepcopy(build(Llama()))
    assert network.head.weight is network.body.embed_tokens.weight


def test_networks_for_images_have_no_embedding() -> None:
    assert "embedding" not in MLP().build((1, 8, 8), 3, None).groups()


def test_weight_decay_applies_to_matrices_only() -> None:
    assert decayed_parameters(build(Llama(layers=1, tied=False))) == [
        "body.embed_tokens.weight",
        *(f"body.layers.0.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"body.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        "head.weight",
    ]


@TIED
def test_operations_a_token_by_hand(tied: bool) -> None:
    layer = 64 * 192 + 192 + 64 * 64 + 64 + 64 * 256 + 256 + 256 * 64 + 64 + 4 * 64  # attention in and out, feed-forward, two norms
    expected = 6 * (3 * layer + 2 * 64 + 64 * BYTES) + 12 * 3 * 64 * 128
    network = build(GPTNeoX(tied=tied))
    assert flops_per_token(network, 128) == expected
    assert flops_per_token(network.config, 128) == expected


# Checkpoints


@BOTH
@TIED
def test_transformers_reads_what_is_saved(kind: type[LanguageModel], tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network, x = build(kind(tied=tied)), ids()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)  # as if trained: biases and norms are not what they start with
    folder = save_checkpoint(network, tmp_path / "whole")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(x).logits, network(x))
    model = kind(checkpoint=str(folder))
    again = build(model, seed=1)
    assert model.pretrained and not kind().pretrained
    assert again.training and torch.equal(again(x), network(x))
    assert again.groups() == network.groups()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_a_checkpoint_in_parts_is_read_and_all_its_files_are_known(saved: tuple[Path, LanguageNetwork], tmp_path: Path) -> None:
    folder = save_checkpoint(saved[1], tmp_path / "parts", max_shard_size="100KB")
    files = GPTNeoX(checkpoint=str(folder)).weight_files(None)
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 1 and files == [folder / "config.json", *parts]
    again = build(GPTNeoX(checkpoint=str(folder)), vocabulary=64)
    assert torch.equal(again(ids(vocabulary=64)), saved[1](ids(vocabulary=64)))


def test_the_files_of_a_checkpoint_are_its_identity(folder: Path) -> None:
    model = GPTNeoX(checkpoint=str(folder))
    assert model.weight_files(None) == [folder / "config.json", folder / "model.safetensors"]
    assert model.weight_file(None) == folder / "model.safetensors"
    assert GPTNeoX().weight_files(None) == [] and GPTNeoX().weight_file(None) is None


def test_published_names_and_half_precision_become_a_network_in_single_precision(folder: Path) -> None:
    """As Pythia is published: float16, and the head under `embed_out`."""
    tensors = {re.sub("^lm_head", "embed_out", name): tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    assert "embed_out.weight" in tensors
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    network = build(GPTNeoX(checkpoint=str(folder)), vocabulary=64)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.head.weight, tensors["embed_out.weight"].float())


def test_a_checkpoint_under_a_data_root_goes_by_its_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root" / "weights" / "someone").mkdir(parents=True)
    place = folder.rename(tmp_path / "root" / "weights" / "someone" / "small")
    model = GPTNeoX(checkpoint="someone/small")
    assert model.weight_file(str(tmp_path / "root")) == place / "model.safetensors"
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "root"))
    assert build(model, vocabulary=64).config.num_hidden_layers == 2


def test_a_hugging_face_name_is_found_in_the_client_s_cache(folder: Path, tmp_path: Path) -> None:
    cached, commit = tmp_path / "hub" / "models--someone--small", "0" * 39 + "1"
    (cached / "refs").mkdir(parents=True)
    (cached / "snapshots").mkdir()
    (cached / "refs" / "step7").write_text(commit)
    folder.rename(cached / "snapshots" / commit)
    model = GPTNeoX(checkpoint="someone/small", checkpoint_revision="step7")
    assert model.weight_file(None) == cached / "snapshots" / commit / "model.safetensors"
    assert build(model, vocabulary=64).config.num_hidden_layers == 2
    assert "model.checkpoint = 'someone/small' at 'step8': no such folder" in refused(GPTNeoX(checkpoint="someone/small", checkpoint_revision="step8"))


def test_a_hugging_face_name_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingData, match=r"^model.checkpoint = 'EleutherAI/pythia-14m': no such folder, and none could be had from Hugging Face \(.*\); give"):
        GPTNeoX(checkpoint="EleutherAI/pythia-14m").weight_files(None)
    with pytest.raises(MissingData, match=r"^model.checkpoint = './nowhere': no such folder, and not a Hugging Face name"):
        GPTNeoX(checkpoint="./nowhere").weight_files(None)


@pytest.mark.parametrize("change", [{"layers": 4}, {"size": "s"}, {"tied": False}, {"rotary": 0.25}, {"dropout": 0.0}], ids=str)
def test_a_checkpoint_decides_the_network_alone(folder: Path, change: dict[str, Any]) -> None:
    name, value = next(iter(change.items()))
    assert refused(GPTNeoX(checkpoint=str(folder), **change)).startswith(f"model.{name} = {value!r} cannot be set with model.checkpoint")


def test_a_folder_has_no_revisions(folder: Path) -> None:
    assert "is a folder, which has no revisions" in refused(GPTNeoX(checkpoint=str(folder), checkpoint_revision="step1"))


def test_another_tokenizer_is_refused_naming_both_vocabularies(folder: Path) -> None:
    assert "a vocabulary of 64 tokens, the tokenizer of the data one of 257" in refused(GPTNeoX(checkpoint=str(folder)))


def test_a_padded_vocabulary_is_the_tokenizer_s(folder: Path) -> None:
    network = build(GPTNeoX(checkpoint=str(folder)), vocabulary=50)
    assert network.head.out_features == 64


def test_a_context_longer_than_the_positions_is_refused(folder: Path) -> None:
    assert "context of 17 tokens is longer than the 16 positions" in refused(GPTNeoX(checkpoint=str(folder)), context=17, vocabulary=64)


def _config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


SPOILED = [
    (lambda f: (f / "config.json").unlink(), r"has no config.json"),
    (lambda f: (f / "config.json").write_text("{"), r"config.json cannot be read as JSON"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"has no safetensors weights \(model.safetensors, or"),
    (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), r"cannot be read \("),
    (lambda f: _config(f, model_type="gpt2"), r"has the architecture 'gpt2' \(valid: gpt_neox, llama\)"),
    (lambda f: _config(f, model_type="llama"), r"has the architecture 'llama': set model=llama"),
    (lambda f: _config(f, num_attention_heads=5), r"config.json cannot be read \("),
    (lambda f: _config(f, num_hidden_layers=3), r"does not fit its own config.json \(missing tensor gpt_neox.layers.2"),
    (lambda f: _config(f, num_hidden_layers=1), r"does not fit its own config.json \(unexpected tensor gpt_neox.layers.1"),
    (lambda f: _config(f, intermediate_size=8), r"(does not fit its own config.json|cannot be read) \("),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILED, ids=[message[:30] for _, message in SPOILED])
def test_a_folder_that_cannot_be_used_is_one_line(folder: Path, spoil: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    spoil(folder)
    assert re.search(message, refused(GPTNeoX(checkpoint=str(folder)), vocabulary=64))
    assert capfd.readouterr() == ("", "")


def test_a_missing_part_is_named(saved: tuple[Path, LanguageNetwork], tmp_path: Path) -> None:
    folder = save_checkpoint(saved[1], tmp_path / "parts", max_shard_size="100KB")
    part = sorted(folder.glob("*.safetensors"))[1]
    part.unlink()
    assert f"has no {part.name}, which model.safetensors.index.json names" in refused(GPTNeoX(checkpoint=str(folder)), vocabulary=64)


def test_a_folder_that_exists_is_not_written_over(saved: tuple[Path, LanguageNetwork]) -> None:
    before = (saved[0] / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(UsageError, match="exists already"):
        save_checkpoint(saved[1], saved[0])
    assert (saved[0] / "model.safetensors").stat().st_mtime_ns == before


@BOTH
def test_nothing_is_printed_and_nothing_global_changes(
    kind: type[LanguageModel], tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    def world() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()

    before = world()
    network = build(kind())
    network(ids()).sum().backward()
    draws = torch.get_rng_state()
    folder = save_checkpoint(network, tmp_path / "saved")
    flops_per_token(network.config, 8)
    again = kind(checkpoint=str(folder)).build((CONTEXT,), BYTES, None)
    assert torch.equal(torch.get_rng_state(), draws)  # saving and reading draw nothing
    assert all(p.grad is not None for p in network.parameters()) and all(p.grad is None for p in again.parameters())
    assert world() == before
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
