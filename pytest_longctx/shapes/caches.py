"""The cache of a layer: keys and values, a latent of both, or a state of fixed size."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

Span = Literal["full", "sliding", "chunked"]


@dataclass(frozen=True, slots=True)
class Attention:
    """The cache of a layer with keys and values of each token, for each KV head."""

    kv_heads: int
    key_dim: int
    value_dim: int
    span: Span = "full"
    window: int = 0
    """Tokens in the window of a sliding layer, or in a chunk; 0 if the layer has full attention."""
    heads: int = 0
    """Number of query heads; only the prefill time depends on it."""
    index_dim: int = 0
    """Values of the key with which an indexer selects blocks (MiniMax-M3), in the cache's dtype; not sharded."""
    attended: int = 0
    """Maximum number of cached tokens that a query attends to; 0: all."""
    index_rate: int = 1
    """Tokens that share one key of the indexer (Qwen4)."""
    index_value_bytes: int = 0
    """Bytes of a value of that key, whatever the cache's dtype; 0: as the cache."""

    def heads_on_device(self, tensor_parallel: int) -> int:
        """
        Return the number of cached KV heads on one device. Heads are sharded, and replicated if there are more devices
        than heads.
        """
        return max(1, ceil(self.kv_heads / tensor_parallel))

    def token_bytes(self, value_bytes: float, tensor_parallel: int = 1) -> float:
        """Return the bytes of one token in a layer's KV cache on one device."""
        per_head = self.key_dim + self.value_dim
        index = self.index_dim * (self.index_value_bytes or value_bytes) / self.index_rate
        return self.heads_on_device(tensor_parallel) * per_head * value_bytes + index

    def kept(self, tokens: int) -> int:
        """Return the maximum number of *tokens* that a layer's KV cache holds between two batches."""
        return min(tokens, self.window) if self.window else tokens


@dataclass(frozen=True, slots=True)
class Latent:
    """
    The cache of a layer with MLA: one latent vector holds the keys and values of all heads, with a copy on every
    device.
    """

    rank: int
    rope_dim: int
    heads: int = 0
    index_dim: int = 0
    """Key of a sparse indexer: FP8 with one FP32 scale for each 128 values, whatever the cache's dtype."""
    rate: int = 1
    """Tokens that share a latent (DeepSeek V4)."""
    window: int = 0
    """Tokens in the window; 0: all."""
    attended: int = 0
    """Maximum number of cached latents that a query attends to; 0: all."""
    key_dim: int = 0
    value_dim: int = 0
    """Values per head during prefill."""
    index_rate: int = 1
    """Tokens that share one key of the indexer (GLM-5.3)."""

    def token_bytes(self, value_bytes: float, tensor_parallel: int = 1) -> float:
        """Return the bytes of one token in a layer's latent cache on one device."""
        del tensor_parallel  # a latent has no heads to divide
        return ((self.rank + self.rope_dim) * value_bytes + self.index_bytes / self.index_rate) / self.rate

    @property
    def index_bytes(self) -> int:
        """Bytes of the indexer's key of one cached latent."""
        return self.index_dim + 4 * ceil(self.index_dim / 128)

    def kept(self, tokens: int) -> int:
        """Return the number of *tokens* that a layer's latent cache holds; an incomplete group counts as complete."""
        return min(tokens, self.window) if self.window else ceil(tokens / self.rate) * self.rate


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a state: the *numbers* that tensor parallelism shards, and the numbers that it replicates."""

    numbers: int
    repeated: int = 0
    shards: int = 1 << 40
    grouped: int = 0
    """Numbers that belong to *groups*; a device has complete groups, at least one."""
    groups: int = 1

    def on_device(self, tensor_parallel: int) -> int:
        """Return how many numbers of one tensor of a recurrent layer's state are on one device."""
        return ceil(self.numbers / min(tensor_parallel, self.shards)) + self.repeated + self._of_groups(tensor_parallel)

    def _of_groups(self, tensor_parallel: int) -> int:
        return self.grouped // self.groups * max(1, self.groups // tensor_parallel)


StateKind = Literal[
    "mamba1", "mamba2", "gated_delta", "kda", "lightning", "short_conv", "rwkv", "compressor", "paged_conv"
]


@dataclass(frozen=True, slots=True)
class State:
    """The state of a recurrent layer for one request, whose size does not depend on the request's length."""

    kind: StateKind
    conv: Part
    """The last inputs of a short convolution, in the model's dtype."""
    recurrent: Part
    """The recurrent state itself, often in FP32."""
    recurrent_dtype: str | None = None
    """Dtype in the model's config, or the dtype that every engine uses if the config has none."""

    def request_bytes(self, conv_bytes: float, recurrent_bytes: float, tensor_parallel: int = 1) -> float:
        """Return the bytes of one request's cached state in a recurrent layer on one device."""
        conv, recurrent = self.conv.on_device(tensor_parallel), self.recurrent.on_device(tensor_parallel)
        return conv * conv_bytes + recurrent * recurrent_bytes


Cache = Attention | Latent | State


def pairs(cache: Attention | Latent, tokens: int) -> float:
    """
    Return the minimum number of query-key pairs that one head multiplies over a layer's cache in the prefill of
    *tokens*.
    """
    rate = cache.rate if isinstance(cache, Latent) else 1
    reach = min(tokens, cache.window or cache.attended * rate or tokens)
    if isinstance(cache, Attention) and cache.span == "chunked":
        return tokens * reach / 2
    return reach * (tokens - reach / 2) / rate
