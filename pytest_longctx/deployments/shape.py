"""The shape of a model from its Hugging Face ``config.json``: all properties that determine memory and time."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx.errors import ModelError
from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from pytest_longctx.shapes.caches import Attention, Latent, State


@dataclass(frozen=True, slots=True)
class Shape:
    """
    The shape of a model: layers by kind of attention, heads, and parameters.

    *chunked* layers attend within a chunk of *window* tokens (Llama 4), *sliding* layers to the last *window* tokens.
    """

    full: int
    chunked: int
    sliding: int
    window: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    """Number of parameters to load."""
    active_parameters: int
    """Number of parameters used per token."""
    embedding_parameters: int
    """Parameters of the input and output embeddings. Only the output is multiplied, and only for the last token."""
    rope_positions: int
    """Positions in the table of rotary embeddings; 0 if no layer has any."""
    whole: ModelShape | None = None
    """
    The model that `pytest_longctx.shapes` read, if the shape comes from it. The weights are then counted tensor by
    tensor.
    """
    model: ModelShape | None = field(default=None, compare=False, repr=False)
    """As `whole`, and set for a shipped model too; None for a shape that was made without a config."""
    architecture: str = ""
    """The class in config.json, by which engines choose; empty if unknown."""
    draft: ModelShape | None = field(default=None, compare=False, repr=False)
    """The draft model of a server with speculative decoding, if its config.json is available."""
    positions_scaled: bool = False
    """Whether the config scales its positions, so that *rope_positions* may not be the longest context."""

    @property
    def layers(self) -> int:
        """Number of the model's layers of all kinds."""
        return self.full + self.chunked + self.sliding

    def stage(self, stages: int) -> "Shape":
        """Return the shape of the largest part of the model on one of *stages* pipeline stages."""
        if stages == 1:
            return self
        counts = {name: ceil(getattr(self, name) / stages) for name in ("full", "chunked", "sliding")}
        held = ceil((self.parameters - self.embedding_parameters) / stages) + self.embedding_parameters // 2
        whole, model = self.whole and self.whole.stage(stages), self.model and self.model.stage(stages)
        return replace(self, **counts, parameters=held, whole=whole, model=model)

    def kv_bytes_per_token(self, value_bytes: int, tensor_parallel: int = 1) -> int:
        """Return the bytes per token of keys and values in all layers of the model, on one device."""
        return self.layers * 2 * self.kv_heads_per_device(tensor_parallel) * self.head_dim * value_bytes

    def kv_heads_per_device(self, tensor_parallel: int) -> int:
        """
        Return the number of KV heads per device. Tensor parallelism divides heads, so every device holds all tokens for
        some heads.
        """
        return max(1, self.kv_heads // tensor_parallel)

    def weight_bytes(self, value_bytes: float, tensor_parallel: int, rope_value_bytes: int) -> float:
        """
        Return the bytes of the model's weights on one device.

        Tensor parallelism does not divide the table of rotary embeddings. With 10,485,760 positions of 128 values it
        takes 2.5 GiB of each device in BF16 (vLLM) and 5.0 GiB in FP32 (SGLang). That explains "weights" above
        parameters / devices.

        If the config says how the weights are quantised, *value_bytes* is ignored.
        """
        if self.whole is not None:
            plain = weight_value_bytes(self.whole, value_bytes)
            # No engine quantises the tables at both ends.
            tables = self.embedding_parameters * max(0.0, 2 - plain) / tensor_parallel
            return self.whole.weight_bytes(tensor_parallel, plain) + self.whole.rope_bytes(rope_value_bytes) + tables
        return self.parameters * value_bytes / tensor_parallel + self.rope_positions * self.head_dim * rope_value_bytes


def weight_value_bytes(whole: ModelShape, value_bytes: float) -> float:
    """
    Return the bytes of a weight that ``quantization_config`` does not cover: *value_bytes*, or BF16 beside quantised
    weights.
    """
    return 2 if whole.scheme.name else value_bytes


def not_plain(whole: ModelShape) -> str:
    """
    Return the features of the model *whole* that the fields of a `Shape` cannot express; empty if its layers are alike.
    `Shape.whole` has these features.
    """
    caches = [cache for layer in whole.stack for cache in layer.caches]
    attentions = [cache for cache in caches if isinstance(cache, Attention)]
    checks = {
        "layers that keep a state": any(isinstance(cache, State) for cache in caches),
        "latent attention": any(isinstance(cache, Latent) for cache in caches),
        "sparse attention": any(cache.index_dim or cache.attended for cache in attentions),
        "layers that keep no cache of their own": not all(layer.caches for layer in whole.stack),
        "layers with several caches": any(len(layer.caches) > 1 for layer in whole.stack),
        "heads of several shapes": len({(c.kv_heads, c.key_dim, c.value_dim, c.heads) for c in attentions}) > 1,
        "keys and values of different width": any(cache.key_dim != cache.value_dim for cache in attentions),
        "windows of several sizes": len({(c.span, c.window) for c in attentions if c.window}) > 1,
    }
    return ", ".join(name for name, there in checks.items() if there)


def uncounted(whole: ModelShape) -> str:
    """Return the parts of the model *whole* that no predictor can handle; empty if all parts are counted."""
    return "encoders that are not counted" if whole.vision_parameters is None else ""


def of(whole: ModelShape, architecture: str = "", *, positions_scaled: bool = False) -> Shape:
    """
    Return the `Shape` of the model *whole*. If `not_plain` names a feature, the fields describe a full layer, and
    `Shape.whole` has the rest.
    """
    return Shape(
        full=whole.full,
        chunked=whole.chunked,
        sliding=whole.sliding,
        window=whole.window,
        hidden=whole.hidden,
        heads=whole.heads,
        kv_heads=whole.kv_heads,
        head_dim=whole.head_dim,
        vocabulary=whole.vocabulary,
        parameters=whole.parameters,
        active_parameters=whole.active_parameters,
        embedding_parameters=whole.embedding_parameters,
        rope_positions=whole.rope_positions,
        whole=whole,
        model=whole,
        architecture=architecture,
        positions_scaled=positions_scaled,
    )


def from_config(config: Mapping[str, Any]) -> Shape:
    """
    Return the `Shape` of a shipped model from its config. Raises `ModelError` if a `Shape` cannot express the model.

    Its engines and flags were measured, so `Backend.unmodelled` does not apply to it.
    """
    whole = read(config)
    if isinstance(whole, NotUnderstood):
        raise ModelError(str(whole))
    if why := not_plain(whole):
        raise ModelError(f"{whole.model_type} has {why}, which a Shape cannot express")
    return replace(of(whole), whole=None)


@cache
def known() -> Mapping[str, Shape]:
    """Return the shapes of the models that findings name, by name."""
    text = (Path(__file__).parent / "shapes.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: from_config(config) for name, config in tomllib.loads(text).items()})
