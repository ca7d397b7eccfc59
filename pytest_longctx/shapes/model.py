"""A model's shape: its layers, their caches and weights, and the formulas for memory and time."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from types import MappingProxyType

from pytest_longctx.shapes.caches import Attention, Cache, Latent, State, pairs
from pytest_longctx.shapes.quantization import PLAIN_SCHEME, Scheme
from pytest_longctx.shapes.tensors import Tensor

VALUE_BYTES = MappingProxyType(
    {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4, "float64": 8, "double": 8}
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its caches (none, one, or two side by side) and its weights."""

    caches: tuple[Cache, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """The layers and tables that a family reads from a config."""

    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    outside: tuple[Tensor, ...]
    """Tables at both ends, and tensors that no single layer owns."""
    draft: tuple[Tensor, ...] = ()
    """Layers of multi-token prediction. They are loaded only for speculative decoding."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Layers with equal caches."""

    cache: Cache
    layers: int


@dataclass(frozen=True)
class ModelShape:
    """
    The sizes on which memory and time depend. A multimodal model is its text part, with *vision_parameters* in
    addition.
    """

    model_type: str
    hidden: int
    vocabulary: int
    rope_positions: int
    stack: tuple[Layer, ...]
    outside: tuple[Tensor, ...]
    draft: tuple[Tensor, ...] = ()
    dtype: str = "bfloat16"
    scheme: Scheme = PLAIN_SCHEME
    vision_parameters: int | None = 0
    """Parameters of the vision and audio encoders in addition to the text model; None if some are not counted."""
    notes: tuple[str, ...] = ()
    rope_dim: int = 0
    """Values in a row of the table of rotary embeddings."""
    rope_stretch: float = 1.0
    """Rows of that table for each position."""

    @property
    def layers(self) -> int:
        """Number of all layers of the model."""
        return len(self.stack)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups of layers with equal caches, and the number of layers of each, in order of first appearance."""
        counts = Counter(cache for layer in self.stack for cache in layer.caches)
        return tuple(Group(cache, count) for cache, count in counts.items())

    @property
    def states(self) -> tuple[tuple[State, int], ...]:
        """Groups of model layers with a state of fixed size, and the number of layers of each."""
        return tuple((g.cache, g.layers) for g in self.groups if isinstance(g.cache, State))

    @property
    def attentions(self) -> tuple[tuple[Attention | Latent, int], ...]:
        """Groups of model layers with a cache that grows with the tokens, and the number of layers of each."""
        return tuple((g.cache, g.layers) for g in self.groups if not isinstance(g.cache, State))

    # What was read is kept: bytes of the cache.

    def kv_bytes_per_token(self, value_bytes: float = 2, tensor_parallel: int = 1, *, windowed: bool = False) -> int:
        """
        Return the bytes of one more token on one device at a long context, at which a layer with a window drops an
        earlier token.

        With *windowed*, as if they kept everything: the use of an engine without a pool for windows.
        """
        return ceil(
            sum(
                count * cache.token_bytes(value_bytes, tensor_parallel)
                for cache, count in self.attentions
                if windowed or not self._lets_go(cache)
            )
        )

    def _lets_go(self, cache: Attention | Latent) -> bool:
        """Return whether *cache* drops tokens. A window as wide as all positions of the model drops none."""
        return cache.window > 0 and not (self.rope_positions and cache.window >= self.rope_positions)

    def kv_bytes(self, tokens: int, value_bytes: float = 2, tensor_parallel: int = 1) -> int:
        """
        Return the KV bytes of one request of *tokens* on one device, without states. Each layer keeps as many tokens as
        it needs.
        """
        return ceil(sum(n * c.token_bytes(value_bytes, tensor_parallel) * c.kept(tokens) for c, n in self.attentions))

    def state_bytes(self, conv_bytes: float = 2, recurrent_bytes: float | None = None, tensor_parallel: int = 1) -> int:
        """
        Return the bytes of one request's states in all recurrent layers of the model on one device.

        *recurrent_bytes* None: as in the config or, if not there, as for the convolution. Engines differ.
        """
        total = 0.0
        for state, count in self.states:
            said = VALUE_BYTES.get(state.recurrent_dtype or "", conv_bytes)
            wide = said if recurrent_bytes is None else recurrent_bytes
            total += count * state.request_bytes(conv_bytes, wide, tensor_parallel)
        return ceil(total)

    def attention_flop(self, tokens: int) -> float:
        """
        Return the minimum floating-point operations of the model's attention to read a prompt of *tokens*, without the
        operations of an indexer.
        """
        return sum(n * pairs(c, tokens) * 2 * c.heads * (c.key_dim + c.value_dim) for c, n in self.attentions)

    # Weights.

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """Every tensor of the model that is loaded, without draft layers and encoders."""
        return (*self.outside, *(t for layer in self.stack for t in layer.tensors))

    @cached_property
    def text_parameters(self) -> int:
        """Number of parameters of the text model."""
        return sum(t.numbers for t in self.weights)

    @property
    def parameters(self) -> int:
        """Number of all parameters of the model that must be loaded: text model and encoders."""
        return self.text_parameters + (self.vision_parameters or 0)

    @cached_property
    def active_parameters(self) -> int:
        """Number of the model's parameters that are used for one token."""
        return sum(t.active_numbers for t in self.weights)

    @property
    def draft_parameters(self) -> int:
        """Number of parameters of the model's layers of multi-token prediction."""
        return sum(t.numbers for t in self.draft)

    @cached_property
    def embedding_parameters(self) -> int:
        """Number of parameters of the model's input and output embedding tables."""
        return sum(t.numbers for t in self.outside if t.name in ("embed_tokens", "lm_head"))

    def weight_bytes(self, tensor_parallel: int = 1, value_bytes: float | None = None) -> int:
        """
        Return the bytes of the model's weights on one device by ``quantization_config``; *value_bytes* for tensors that
        are not quantised.
        """
        plain = VALUE_BYTES.get(self.dtype, 2) if value_bytes is None else value_bytes
        total = sum(self.scheme.bytes_of(t, None, plain, tensor_parallel) for t in self.outside)
        for index, layer in enumerate(self.stack):
            total += sum(self.scheme.bytes_of(t, index, plain, tensor_parallel) for t in layer.tensors)
        return ceil(total + (self.vision_parameters or 0) * plain)

    def rope_bytes(self, value_bytes: float) -> int:
        """
        Return the bytes of one table of the model's rotary embeddings, whole on every device.

        With 10,485,760 positions of 128 values it takes 2.5 GiB in BF16 (vLLM) and 5.0 GiB in FP32 (SGLang).
        """
        return ceil(self.rope_positions * self.rope_stretch * self.rope_dim * value_bytes)

    # What `Shape` was asked for.

    def _count(self, span: str) -> int:
        return sum(n for c, n in self.attentions if _span(c) == span)

    @property
    def full(self) -> int:
        """Number of model layers with full attention."""
        return self._count("full")

    @property
    def chunked(self) -> int:
        """Number of model layers that attend only to their own chunk."""
        return self._count("chunked")

    @property
    def sliding(self) -> int:
        """Number of model layers with a sliding attention window."""
        return self._count("sliding")

    @property
    def window(self) -> int:
        """The widest attention window of the model in tokens; 0 without a window."""
        return max((c.window for c, _ in self.attentions), default=0)

    @property
    def _first(self) -> Attention | Latent | None:
        """The attention from which the model's sizes are taken, of full layers if there are any; None without attention."""
        ordered = sorted(self.attentions, key=lambda pair: pair[0].window > 0)
        return ordered[0][0] if ordered else None

    @property
    def heads(self) -> int:
        """Number of query heads of the model's full layers."""
        return self._first.heads if self._first is not None else 0

    @property
    def kv_heads(self) -> int:
        """Number of KV heads of the model's full layers; a latent counts as one head."""
        return self._first.kv_heads if isinstance(self._first, Attention) else min(1, self.full)

    @property
    def head_dim(self) -> int:
        """Number of values in a key of the model's full layers."""
        cache = self._first
        return (
            cache.key_dim if isinstance(cache, Attention) else cache.rank + cache.rope_dim if cache is not None else 0
        )

    def kv_heads_per_device(self, tensor_parallel: int) -> int:
        """Return the number of KV heads of the model's full layers on one device."""
        cache = self._first
        return cache.heads_on_device(tensor_parallel) if isinstance(cache, Attention) else self.kv_heads

    def stage(self, stages: int) -> "ModelShape":
        """Return the model's heaviest of *stages* pipeline stages: the longest run of layers, and one of the tables."""
        if stages <= 1:
            return self
        size = ceil(self.layers / stages)
        parts = [self.stack[i : i + size] for i in range(0, self.layers, size)]
        heaviest = max(parts, key=lambda part: sum(t.numbers for layer in part for t in layer.tensors))
        return replace(self, stack=heaviest, outside=self.outside[:1])


def _span(cache: Attention | Latent) -> str:
    """Return the span of a model layer's attention: full, sliding or chunked."""
    if isinstance(cache, Attention):
        return cache.span
    return "sliding" if cache.window else "full"
