"""
A vLLM plugin that plants one fault in a running engine, to test the tests. Never use it on a server that others use.

`write_plugin` makes a folder for PYTHONPATH. vLLM loads this module from there in each of its processes, as a general plugin.
The name of a fault in the file that `CONTROL` names arms it while the server runs; an empty file disarms it. This module runs in
the engine's environment, so that it imports only the standard library at its top.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

CONTROL = "LONGCTX_FAULT_FILE"
"""Environment variable with the path of the control file."""

_MODULE = "longctx_vllm_faults"
_MANY = 4
_FAR_TOKENS = 8192

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "wrong-block-on-hit": "the second cached block of a prompt is replaced by its first",
        "swapped-blocks-on-hit": "the second and the third cached block of a prompt are one block of another place",
        "null-block-on-hit": "the last cached block of a prompt is replaced by the block that is never written",
        "one-block-too-many": "a hit claims one block more than the cache has",
        "one-block-too-few": "a hit gives one block fewer than the cache has",
        "never-hits": "no prompt is found in the cache",
        "hash-without-last-token": "the key of a block leaves out its last token",
        "salt-ignored": "the key of a block leaves out the salt of its request",
        "stale-after-eviction": "an evicted block stays in the table of cached blocks, with the content of another prompt",
        "reset-does-nothing": "a reset of the prefix cache is confirmed and not done",
        "counts-too-much": "usage reports 128 cached tokens more than there were",
        "wrong-block": "attention reads the first block of a request in place of its second",
        "swapped-requests": "the first two requests of a batch read each other's blocks",
        "wrong-block-in-company": "with four requests or more, attention reads the first block in place of the second",
        "wrong-block-far": "beyond 8,192 tokens attention reads the first block in place of the second",
        "values-halved": "values of the last layer are stored as half of what they are",
        "values-of-hits-scaled": "once a prompt was hit, attention returns 1.1 times what it computes",
        "keys-zeroed": "keys of the last layer are stored as zero",
        "writes-lost": "every second call stores no keys and values",
        "nan": "a value of the last layer is stored as NaN",
    }
)
"""Each fault and what it does."""


def armed() -> str:
    """Name of the fault that is armed now; empty for none."""
    path = os.environ.get(CONTROL, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except OSError:
        return ""


def write_plugin(folder: Path) -> dict[str, str]:
    """Write the plugin and its control file into *folder*; return the environment variables of a server with it."""
    info = folder / f"{_MODULE}-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{_MODULE}.py").write_bytes(Path(__file__).read_bytes())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_MODULE}\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{_MODULE} = {_MODULE}:install\n", encoding="utf-8")
    control = folder / "armed"
    control.write_text("", encoding="utf-8")
    return {"PYTHONPATH": str(folder), CONTROL: str(control)}


def install() -> None:
    """Wrap the engine's functions; vLLM calls it in each process."""
    for wrap in (_wrap_hits, _wrap_hashes, _wrap_pool, _wrap_attention, _wrap_usage):
        wrap()


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _wrap_hits() -> None:
    """Faults of the blocks that the scheduler finds in the cache."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    def make(true: Any) -> Any:
        def get_computed_blocks(self: Any, request: Any) -> Any:
            blocks, tokens, *rest = true(self, request)
            fault, groups = armed(), [list(group) for group in blocks.blocks]
            count = min((len(group) for group in groups), default=0)
            size = tokens // count if count else 0
            if fault == "never-hits":
                return (self.empty_kv_cache_blocks, 0, *rest)
            if fault == "one-block-too-few" and count >= 1:
                return (self.create_kv_cache_blocks(tuple(group[:-1] for group in groups)), tokens - size, *rest)
            if fault == "one-block-too-many" and count >= 1 and tokens + size < request.num_tokens:
                more = tuple([*group, group[0]] for group in groups)
                return (self.create_kv_cache_blocks(more), tokens + size, *rest)
            if count >= 3 and (damaged := _damaged(fault, groups, self.block_pool)):
                return (self.create_kv_cache_blocks(tuple(damaged)), tokens, *rest)
            return (blocks, tokens, *rest)

        return get_computed_blocks

    _wrap(KVCacheManager, "get_computed_blocks", make)


def _damaged(fault: str, groups: list[list[Any]], pool: Any) -> list[list[Any]] | None:
    if fault == "wrong-block-on-hit":
        return [[group[0], group[0], *group[2:]] for group in groups]
    if fault == "swapped-blocks-on-hit":
        return [[group[0], group[2], group[2], *group[3:]] for group in groups]
    if fault == "null-block-on-hit":
        return [[*group[:-1], pool.null_block] for group in groups]
    return None


def _wrap_hashes() -> None:
    """Faults of the keys by which blocks are found."""
    from vllm.v1.core import kv_cache_utils

    def keys(true: Any) -> Any:
        def generate_block_hash_extra_keys(request: Any, *where: Any) -> Any:
            salt = request.cache_salt
            if armed() == "salt-ignored":
                request.cache_salt = None
            try:
                return true(request, *where)
            finally:
                request.cache_salt = salt

        return generate_block_hash_extra_keys

    def hashes(true: Any) -> Any:
        def hash_block_tokens(function: Any, parent: Any, ids: Any, *extra: Any, **named: Any) -> Any:
            kept = (*tuple(ids)[:-1], 0) if armed() == "hash-without-last-token" else ids
            return true(function, parent, kept, *extra, **named)

        return hash_block_tokens

    _wrap(kv_cache_utils, "generate_block_hash_extra_keys", keys)
    _wrap(kv_cache_utils, "hash_block_tokens", hashes)


def _wrap_pool() -> None:
    """Faults of eviction and reset."""
    from vllm.v1.core.block_pool import BlockPool

    def evict(true: Any) -> Any:
        def _maybe_evict_cached_block(self: Any, block: Any) -> Any:
            key = block.block_hash
            done = true(self, block)
            if done and key is not None and armed() == "stale-after-eviction":
                self.cached_block_hash_to_block.insert(key, block)
            return done

        return _maybe_evict_cached_block

    def reset(true: Any) -> Any:
        return lambda self: True if armed() == "reset-does-nothing" else true(self)

    _wrap(BlockPool, "_maybe_evict_cached_block", evict)
    _wrap(BlockPool, "reset_prefix_cache", reset)


def _wrap_attention() -> None:
    """Faults of what attention reads and stores."""
    from vllm.v1.attention.backends import cpu_attn

    _wrap(cpu_attn.CPUAttentionMetadataBuilder, "build", _building)
    _wrap(cpu_attn.CPUAttentionBackendImpl, "do_kv_cache_update", _storing)
    _wrap(cpu_attn.CPUAttentionBackendImpl, "forward", _attending)


def _building(true: Any) -> Any:
    def build(self: Any, common_prefix_len: int, common: Any, *rest: Any, **named: Any) -> Any:
        made = true(self, common_prefix_len, common, *rest, **named)
        made.block_table = _table(armed(), made.block_table, made.seq_lens, self.block_size)
        made.longctx_hit = _hit(made)
        return made

    return build


def _storing(true: Any) -> Any:
    calls = [0]

    def do_kv_cache_update(self: Any, layer: Any, key: Any, value: Any, *rest: Any) -> Any:
        fault = armed() if _is_last(layer) else ""
        calls[0] += bool(fault)
        if fault == "writes-lost" and calls[0] % 2:
            return None
        if fault == "values-halved":
            value = value * 0.5
        if fault == "keys-zeroed":
            key = key * 0.0
        if fault == "nan":
            value = value.clone()
            value[0] = float("nan")
        return true(self, layer, key, value, *rest)

    return do_kv_cache_update


def _attending(true: Any) -> Any:
    def forward(self: Any, layer: Any, *tensors: Any, **named: Any) -> Any:
        found = true(self, layer, *tensors, **named)
        made = named.get("attn_metadata") or tensors[4]
        if made is not None and _is_last(layer) and armed() == "values-of-hits-scaled" and made.longctx_hit:
            found.mul_(1.1)
        return found

    return forward


def _is_last(layer: Any) -> bool:
    """Whether *layer* is the fourth, which reads the probe's needles."""
    return ".3." in getattr(layer, "layer_name", "")


def _hit(made: Any) -> bool:
    """Whether a prompt is read behind tokens that were computed before: a hit, or a later chunk."""
    read = made.query_start_loc[1:] - made.query_start_loc[:-1]
    return bool(((read > 1) & (made.seq_lens[: read.shape[0]] > read)).any())


def _table(fault: str, table: Any, lengths: Any, size: int) -> Any:
    requests = int(lengths.shape[0])
    if fault == "swapped-requests" and requests > 1:
        swapped = table.clone()
        swapped[[0, 1]] = table[[1, 0]]
        return swapped
    many = fault == "wrong-block-in-company" and requests >= _MANY
    if fault not in ("wrong-block", "wrong-block-far") and not many:
        return table
    wrong = table.clone()
    for row in range(requests):
        if int(lengths[row]) > (_FAR_TOKENS if fault == "wrong-block-far" else 2 * size):
            wrong[row, 1] = wrong[row, 0]
    return wrong


def _wrap_usage() -> None:
    """A fault of what is reported."""
    from vllm.v1.engine import output_processor

    def make(true: Any) -> Any:
        def make_request_output(self: Any, *rest: Any, **named: Any) -> Any:
            if armed() == "counts-too-much" and not getattr(self, "longctx_counted", False):
                self.longctx_counted, self.num_cached_tokens = True, (self.num_cached_tokens or 0) + 128
            return true(self, *rest, **named)

        return make_request_output

    _wrap(output_processor.RequestState, "make_request_output", make)
