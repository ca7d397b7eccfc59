"""
vLLM's pages: the block of each kind of layer, and the groups of layers that give all blocks one size.

Sources of 0.32.0: ``v1/kv_cache_interface.py`` (sizes of pages, blocks of one request), ``v1/core/kv_cache_utils.py``
(``unify_kv_cache_spec_page_size``, ``_get_kv_cache_groups_uniform_page_size``) and ``platforms/interface.py``
(``_align_hybrid_block_size``). They reproduce the blocks and tokens that 44 boots of the CPU build logged, to the last
digit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from pytest_longctx.backends.vllm.kv_dtypes import PLAIN, ValueSize
from pytest_longctx.deployments.deployment import FlagValue
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.caches import Attention, Cache, Latent, State
from pytest_longctx.shapes.model import VALUE_BYTES


@dataclass(frozen=True, slots=True)
class Layout:
    """Page layout of one engine version on one kind of device: dtypes, block sizes and rules."""

    keys: ValueSize = PLAIN[2]
    """Bytes of keys and values."""
    latents: ValueSize = PLAIN[2]
    """Bytes of MLA latents."""
    conv_bytes: float = 2
    recurrent_bytes: float | None = None
    """Bytes of a value of a recurrent state; None: as in the config, or as for the convolution."""
    tensor_parallel: int = 1
    block_size: int = 16
    """Tokens of an attention block, before the block is enlarged for states."""
    alignment: int = 16
    """Tokens of the smallest block that a kernel supports."""
    hybrid: bool = True
    """Whether layers with a window keep only that window (hybrid KV-cache manager)."""
    prefix_caching: bool = True
    """Whether states are kept for reuse. Each state then needs more than one block."""
    checkpoints: frozenset[str] = frozenset({"mamba2"})
    """Kinds of state with a block for a checkpoint."""
    group_ratio: float = 1.5
    """Ratio of the largest layer count to the smallest from which groups have the smallest count."""
    drafted: int = 0
    """Number of tokens drafted at once. Each request has as many more states."""
    shards: int = 1
    """Number of devices that share the tokens of full layers (decode context parallelism)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Layers whose pages are equal."""

    span: Literal["full", "sliding", "chunked", "state"]
    layers: int
    page_bytes: int
    """Bytes of one block in one layer, on one device."""
    tokens: int
    """Tokens of a block. A state's block has all tokens."""
    window: int = 0
    state_blocks: int = 1
    latent: bool = False
    heads: tuple[int, int, int] = (0, 0, 0)
    """KV heads and widths. Layers with different ones are never merged."""
    shards: int = 1
    """Number of devices that share the tokens."""

    @property
    def covered(self) -> int:
        """Number of tokens of one request in a block of these pages, on all devices together."""
        return self.tokens * (self.shards if self.span == "full" else 1)

    def blocks_for(self, tokens: int, in_flight: int) -> int:
        """
        Return the most blocks of these pages that a request of *tokens* needs in one group, while *in_flight* tokens
        are computed.
        """
        if self.span == "state":
            return self.state_blocks
        if self.span == "chunked":
            return ceil(min(self.window + in_flight, tokens) / self.tokens)
        if self.span == "sliding":
            return ceil(min(self.window - 1 + in_flight, tokens) / self.tokens) + 1
        return ceil(tokens / self.covered)


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of layers in a pool whose blocks have one size."""

    kinds: tuple[Kind, ...]
    group_layers: int
    """Number of layers in a group. In a pool with one group, all layers."""
    block_bytes: int
    """Bytes of one block on one device: its tokens in one group of layers."""

    @property
    def groups(self) -> int:
        """Number of groups of layers with pages of one size."""
        return sum(self._groups_of(kind) for kind in self._counted)

    @property
    def _counted(self) -> tuple[Kind, ...]:
        """Return the kinds of pages with their own blocks: only the first kind if one group holds all layers."""
        one = self.group_layers == sum(kind.layers for kind in self.kinds)
        return self.kinds[:1] if one else self.kinds

    def _groups_of(self, kind: Kind) -> int:
        return ceil(kind.layers / self.group_layers)

    def blocks_for(self, tokens: int, in_flight: int) -> int:
        """Return the most blocks that one request of *tokens* needs at a time, in all groups of pages."""
        return sum(self._groups_of(kind) * kind.blocks_for(tokens, in_flight) for kind in self._counted)

    @property
    def block_tokens(self) -> int:
        """Tokens of the smallest block in any group of pages; 0 if every layer keeps a state."""
        return min((kind.covered for kind in self.kinds if kind.span != "state"), default=0)

    @property
    def has_states(self) -> bool:
        """Whether some pages hold states of recurrent layers."""
        return any(kind.span == "state" for kind in self.kinds)


class UnlaidError(ValueError):
    """The pages cannot be arranged in one pool, or their arrangement is unknown. The message says which."""


def caches(shape: Shape) -> Iterable[tuple[Cache, int]]:
    """Return the caches that the layers of *shape* keep in the KV pool, and the number of layers of each."""
    if shape.model is not None:
        return [(group.cache, group.layers) for group in shape.model.groups]
    spans = (
        ("full", shape.full, 0),
        ("chunked", shape.chunked, shape.window),
        ("sliding", shape.sliding, shape.window),
    )
    width = shape.head_dim
    return [(Attention(shape.kv_heads, width, width, span, w), n) for span, n, w in spans if n]  # type: ignore[arg-type]


def arrange(caches: Iterable[tuple[Cache, int]], layout: Layout) -> Grouping:
    """
    Return the pages of layers in groups. *caches* has the caches, and the number of layers of each. Raises
    `UnlaidError`.
    """
    kinds = _kinds(tuple(caches), layout)
    if not kinds or not all(kind.page_bytes for kind in kinds):
        raise UnlaidError("no layer of this model has a cache")
    if not layout.hybrid:
        kinds = _promoted(kinds)
    if _uniform(kinds):
        layers = sum(kind.layers for kind in kinds)
        return Grouping(kinds, layers, sum(kind.layers * kind.page_bytes for kind in kinds))
    kinds = _merged(_unified(kinds))
    counts = [kind.layers for kind in kinds]
    size = max(counts) if max(counts) < layout.group_ratio * min(counts) else min(counts)
    return Grouping(kinds, size, size * kinds[0].page_bytes)


def _kinds(caches: Sequence[tuple[Cache, int]], layout: Layout) -> tuple[Kind, ...]:
    states = [(cache, count) for cache, count in caches if isinstance(cache, State)]
    tokens = [(cache, count) for cache, count in caches if not isinstance(cache, State)]
    block = layout.block_size
    page = max((_state_bytes(state, layout) for state, _ in states), default=0)
    if page and tokens:
        one = _token_bytes(_first(tokens), layout)
        least = max(layout.alignment, layout.block_size, 128 if isinstance(_first(tokens), Latent) else 0)
        block = max(block, _up(least * ceil(page / (least * one)), layout.alignment))
        page = block * one
    made = [_page(cache, count, block, layout) for cache, count in tokens]
    return _merged((*made, *(_state(state, count, page, block, layout) for state, count in states)))


def _up(number: int, multiple: int) -> int:
    return ceil(number / multiple) * multiple


def _first(caches: Sequence[tuple[Attention | Latent, int]]) -> Attention | Latent:
    """Return the cache that sets the size of vLLM's blocks: the cache of a full layer if there is one."""
    return min((cache for cache, _ in caches), key=lambda cache: cache.window > 0)


def _token_bytes(cache: Attention | Latent, layout: Layout) -> int:
    if isinstance(cache, Latent):
        return layout.latents.of(cache.rank + cache.rope_dim)
    widths = layout.keys.of(cache.key_dim) + layout.keys.of(cache.value_dim)
    return cache.heads_on_device(layout.tensor_parallel) * widths


def _page(cache: Attention | Latent, count: int, block: int, layout: Layout) -> Kind:
    if isinstance(cache, Latent):
        if cache.rate != 1 or cache.window:
            raise UnlaidError("latents of several tokens (compress_ratios)")
        if cache.index_rate != 1:
            raise UnlaidError("an indexer's keys of several tokens (index_kpool)")
        # The indexer's keys are a cache of their own, of the same block; one block of both belongs together.
        size = block * (_token_bytes(cache, layout) + cache.index_bytes)
        heads = (1, cache.rank + cache.rope_dim, cache.index_dim)
        return Kind("full", count, size, block, latent=True, heads=heads, shards=layout.shards)
    if cache.index_dim:
        raise UnlaidError("an indexer beside keys and values (index_dim)")
    heads = (cache.heads_on_device(layout.tensor_parallel), cache.key_dim, cache.value_dim)
    size = block * _token_bytes(cache, layout)
    return Kind(cache.span, count, size, block, cache.window, heads=heads, shards=layout.shards)


def _state_bytes(state: State, layout: Layout) -> int:
    if state.kind in ("rwkv", "compressor", "paged_conv"):
        raise UnlaidError(f"a state of kind {state.kind}")
    said = VALUE_BYTES.get(state.recurrent_dtype or "", layout.conv_bytes)
    wide = said if layout.recurrent_bytes is None else layout.recurrent_bytes
    return ceil(state.request_bytes(layout.conv_bytes, wide, layout.tensor_parallel))


def _state(state: State, count: int, page_bytes: int, block: int, layout: Layout) -> Kind:
    blocks = layout.drafted + (1 if not layout.prefix_caching else 3 if state.kind in layout.checkpoints else 2)
    return Kind("state", count, max(page_bytes, _state_bytes(state, layout)), block, state_blocks=blocks)


def _promoted(kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """
    Return the kinds of pages without the hybrid manager. If any layer has full attention, layers with a window keep all
    tokens.
    """
    if not any(kind.span == "full" for kind in kinds):
        return kinds
    windowed = ("sliding", "chunked")
    return _merged([replace(kind, span="full", window=0) if kind.span in windowed else kind for kind in kinds])


def _uniform(kinds: Sequence[Kind]) -> bool:
    """
    Return whether the pages of all layers need blocks for equal tokens, so that one group has all layers whatever their
    sizes.
    """
    states = {(kind.page_bytes, kind.state_blocks) for kind in kinds if kind.span == "state"}
    return len({(kind.span, kind.window, kind.tokens) for kind in kinds}) == 1 and len(states) <= 1


def _unified(kinds: Sequence[Kind]) -> list[Kind]:
    """
    Return kinds whose pages have one size. Smaller pages get more tokens if these fill the page exactly, otherwise
    padding.
    """
    largest = max(kind.page_bytes for kind in kinds)
    made = []
    for kind in kinds:
        if kind.span != "state" and kind.page_bytes != largest and largest % kind.page_bytes == 0:
            made.append(replace(kind, page_bytes=largest, tokens=kind.tokens * (largest // kind.page_bytes)))
        elif kind.latent and kind.page_bytes != largest:
            raise UnlaidError("MLA latents together with pages whose size is not a multiple of the MLA page size")
        else:
            made.append(replace(kind, page_bytes=largest))
    return made


def _merged(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Return *kinds* in which pages that differ only in their number of layers are one kind."""
    counts: dict[Kind, int] = {}
    for kind in kinds:
        alike = replace(kind, layers=0)
        counts[alike] = counts.get(alike, 0) + kind.layers
    return tuple(replace(alike, layers=count) for alike, count in counts.items())


def fixed_pool_bytes(flags: Mapping[str, FlagValue], block_bytes: int) -> float | None:
    """Return the bytes of the KV pool if flags fix it, else None. The number of blocks has priority, as in the engine."""
    blocks, size = flags.get("num-gpu-blocks-override"), flags.get("kv-cache-memory-bytes")
    if isinstance(blocks, int) and not isinstance(blocks, bool) and blocks > 0:
        return float(blocks * block_bytes)
    return float(size) if isinstance(size, int | float) and not isinstance(size, bool) and size > 0 else None
