"""Language models: the GPT-NeoX and Llama networks of transformers, new or from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..errors import UsageError
from ..settings import setting
from .base import Model, Network, Normalisation, Shape
from .language_checkpoint import architecture, checkpoint_files, find_checkpoint, load_checkpoint, modules_of, published, save_checkpoint


class LanguageNetwork(Network):
    """Token ids to scores of the next token at every position; attention is causal and nothing is cached.

    Ids are int64 [batch, context]. With tied embeddings `head.weight` is the embedding: one parameter, registered as the
    body's and in the group `head`.

    `body` and `head` are those of a `...ForCausalLM` of transformers. The layers are called one by one, without a mask: then
    `scaled_dot_product_attention` runs its causal kernel. The body's own forward would first look whether the positions are
    those of packed documents, for which a GPU must be waited for at every step.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, config: Any):
        super().__init__()
        self.body: Any = body
        self.head = head
        self.config = config
        """The transformers configuration."""
        self._norm: str = "final_layer_norm" if hasattr(body, "final_layer_norm") else "norm"

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The last hidden states, after the final norm: [batch, context, width]."""
        hidden = self.body.get_input_embeddings()(x)
        if hasattr(self.body, "emb_dropout"):
            hidden = self.body.emb_dropout(hidden)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        rotation = self.body.rotary_emb(hidden, position_ids=positions)
        for layer in self.body.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotation)
        return getattr(self.body, self._norm)(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores before the softmax: [batch, context, vocabulary]."""
        return self.head(self.features(x))

    def block_of(self, name: str) -> str:
        parts = name.split(".")[1:]  # without `body`
        return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


@dataclass(frozen=True)
class Size:
    """The shape of a network; `tied`: the head's weight is the embedding."""

    layers: int
    width: int
    heads: int
    tied: bool = True


OWN_SIZES = {
    "xxs": Size(3, 64, 2),
    "xs": Size(5, 128, 4),
    "s": Size(6, 256, 8),
    "m": Size(8, 512, 8),
    "l": Size(12, 768, 12),
}
"""About 0.2M and 1M parameters with a vocabulary of bytes, 5-10M, 30M with 8,000 tokens, and 124M with GPT-2's 50,257."""

PYTHIA_SIZES = {
    "pythia-14m": Size(6, 128, 4, tied=False),
    "pythia-31m": Size(6, 256, 8, tied=False),
    "pythia-70m": Size(6, 512, 8, tied=False),
    "pythia-160m": Size(12, 768, 12, tied=False),
    "pythia-410m": Size(24, 1024, 16, tied=False),
}
"""14M and 31M were read in GPT-NeoX's configurations, as were rotary positions on a quarter of each head and no dropout. From memory: 70M, 160M
and 410M, untied embeddings, the parallel residual (with 50,304 tokens the totals are then 70,426,624, 162,322,944 and 405,334,016, which is what
we remember as published)."""


class LanguageModel(Model):
    """Builds a `LanguageNetwork`; `build` gets the shape `(context,)` and the vocabulary as `classes`.

    New weights are those transformers starts with (normal, standard deviation 0.02, biases 0), drawn from torch's default
    generator, whatever the size: Pythia's own training scaled some of them down.
    """

    world = "text"
    sizes: ClassVar[dict[str, Size]]

    size: str = setting("xxs")
    layers: int | None = setting(None, ge=1, help="layers (null: those of the size)")
    width: int | None = setting(None, ge=1, help="width of the hidden states (null: that of the size)")
    heads: int | None = setting(None, ge=1, help="attention heads; the width is divisible by them (null: those of the size)")
    intermediate: int | None = setting(None, ge=1, help="width inside the feed-forward layers (null: the architecture's share of the width)")
    tied: bool | None = setting(None, help="whether the head's weight is the embedding (null: as the size has it)")
    dropout: float | None = setting(None, ge=0, lt=1, help="dropout of attention and, in gpt_neox, of hidden states (null: none)")
    checkpoint: str | None = setting(
        None, help="pretrained network: a folder with config.json and safetensors weights, here or under weights/ of the data root, or a Hugging Face name"
    )
    checkpoint_revision: str | None = setting(None, help="branch, tag or commit of a Hugging Face checkpoint, such as step143000 (null: its main branch)")

    @property
    def imports(self) -> tuple[str, ...]:
        """What `build` imports when it is first called, seconds long."""
        return modules_of(self.name)

    @property
    def pretrained(self) -> bool:
        return self.checkpoint is not None

    def weight_file(self, data_root: str | None) -> Path | None:
        """The first file of weights; `weight_files` has all."""
        return next((file for file in self.weight_files(data_root) if file.suffix == ".safetensors"), None)

    def weight_files(self, data_root: str | None) -> list[Path]:
        """The checkpoint's config.json and its parts by name; one that is not on this machine is fetched."""
        folder = self._folder(data_root)
        return [] if folder is None else checkpoint_files(folder)

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        if len(shape) != 1:
            raise UsageError(f"model = {self.name} reads text: it cannot be trained on images (shape {list(shape)})")
        folder = self._folder(data_root)
        if folder is not None:
            language_model = load_checkpoint(folder, self.name, context=shape[0], vocabulary=classes)
        else:
            configuration, network = architecture(self.name)
            language_model = network(configuration(**self._configuration(shape[0], classes), attn_implementation="sdpa"))
        return _wrapped(language_model)

    suffix = ""

    def tensors(self, network: Network) -> dict[str, torch.Tensor]:
        return published(network)  # type: ignore[arg-type]

    def write(self, network: Network, tensors: dict[str, torch.Tensor], path: Path, normalisation: Normalisation | None) -> None:
        save_checkpoint(network, path, tensors=tensors)  # type: ignore[arg-type]

    def _folder(self, data_root: str | None) -> Path | None:
        if self.checkpoint is None:
            if self.checkpoint_revision is not None:
                raise UsageError(f"model.checkpoint_revision = {self.checkpoint_revision!r} needs model.checkpoint, the Hugging Face name it is a revision of")
            return None
        changed = {name: value for name, value in self.settings().items() if name not in ("checkpoint", "checkpoint_revision")}
        for name, value in changed.items():
            if value != self.declared()[name].default:
                raise UsageError(f"model.{name} = {value!r} cannot be set with model.checkpoint: the network is what the checkpoint's config.json says")
        return find_checkpoint(self.checkpoint, self.checkpoint_revision, data_root)

    def _configuration(self, context: int, vocabulary: int) -> dict[str, Any]:
        size = self.sizes[self.size]
        width, heads = self.width or size.width, self.heads or size.heads
        if width % heads:
            raise UsageError(f"model.heads = {heads} does not divide the width {width}")
        return {
            "vocab_size": vocabulary,
            "max_position_embeddings": context,
            "hidden_size": width,
            "num_hidden_layers": self.layers or size.layers,
            "num_attention_heads": heads,
            "intermediate_size": self.intermediate or self._intermediate(width),
            "tie_word_embeddings": size.tied if self.tied is None else self.tied,
            "attention_dropout": self.dropout or 0.0,
            "bos_token_id": None,  # the tokenizer's business
            "eos_token_id": None,
        }

    def _intermediate(self, width: int) -> int:
        raise NotImplementedError


def _check_rotary(where: str, share: float, head: int) -> None:
    turned = int(head * share)
    if turned % 2 or turned < 2:
        raise UsageError(f"{where}: rotary positions would turn {turned} of the {head} dimensions of a head, expected an even number of at least 2")


class GPTNeoX(LanguageModel):
    """GPT-NeoX as in Pythia: attention and feed-forward side by side, LayerNorm, rotary positions on a quarter of each head."""

    name = "gpt_neox"
    sizes = {**OWN_SIZES, **PYTHIA_SIZES}

    size: Literal["xxs", "xs", "s", "m", "l", "pythia-14m", "pythia-31m", "pythia-70m", "pythia-160m", "pythia-410m"] = setting(
        "xxs", help="layers, width, heads and tying together: about 0.2M, 1M, 5-10M, 30M, 124M parameters, or a Pythia"
    )
    rotary: float | None = setting(None, gt=0, le=1, help="share of each head's dimensions that carries positions (null: a quarter)")

    def _configuration(self, context: int, vocabulary: int) -> dict[str, Any]:
        common = super()._configuration(context, vocabulary)
        share = 0.25 if self.rotary is None else self.rotary
        heads = common["num_attention_heads"]
        _check_rotary(f"model.rotary = {share:g}", share, common["hidden_size"] // heads)
        return {
            **common,
            "hidden_dropout": self.dropout or 0.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share},
            "use_parallel_residual": True,
        }

    def _intermediate(self, width: int) -> int:
        return 4 * width


class Llama(LanguageModel):
    """Llama: attention before feed-forward, RMSNorm, gated SiLU, no biases, rotary positions on whole heads.

    The feed-forward width is 8/3 of the width, rounded up to a multiple of 16. With 50,304 tokens `l` has 123.59M
    parameters, as the networks of Schaipp et al.'s published runs. There is dropout in the attention alone.
    """

    name = "llama"
    sizes = OWN_SIZES

    size: Literal["xxs", "xs", "s", "m", "l"] = setting("xxs", help="layers, width, heads and tying together: about 0.2M, 1M, 5-10M, 30M, 124M parameters")

    def _configuration(self, context: int, vocabulary: int) -> dict[str, Any]:
        common = super()._configuration(context, vocabulary)
        heads = common["num_attention_heads"]
        _check_rotary(f"model.heads = {heads}", 1.0, common["hidden_size"] // heads)
        return {**common, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}

    def _intermediate(self, width: int) -> int:
        return -(-8 * width // 48) * 16


def _wrapped(language_model: Any) -> LanguageNetwork:
    return LanguageNetwork(language_model.base_model, language_model.get_output_embeddings(), language_model.config)


def flops_per_token(network: LanguageNetwork | Any, context: int) -> float:
    """Floating-point operations of training on one token: 6 N + 12 L d `context`, for a network or its configuration.

    N counts all parameters but an embedding that is only looked up: the head's product is computed, so its weight, tied or
    not, counts once. L is the layers, d their width; attention counts as if it were not causal. Source: the rule for the
    utilisation of a device (MFU), from memory.
    """
    if not isinstance(network, LanguageNetwork):
        with torch.device("meta"):
            network = _wrapped(architecture(network.model_type)[1](network))
    looked_up = sum(parameter.numel() for parameter in network.select("embedding"))
    parameters = sum(parameter.numel() for parameter in network.parameters()) - looked_up
    return 6.0 * parameters + 12.0 * network.config.num_hidden_layers * network.config.hidden_size * context


def decayed_parameters(network: nn.Module) -> list[str]:
    """Names of the parameters weight decay applies to: those of two or more dimensions, embedding and head included, not biases and norms."""
    return [name for name, parameter in network.named_parameters() if parameter.ndim >= 2]
