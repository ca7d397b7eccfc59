"""Faults in the blocks of a request, and in the figures that the engine reports about blocks."""

from typing import Any

from . import armed, wrap


def install() -> None:
    """Wrap the scheduler's functions with faults."""
    for each in (_wrap_hits, _wrap_hashes, _wrap_pool, _wrap_requests, _wrap_usage):
        each()


def _wrap_hits() -> None:
    """Wrap the scheduler's lookup of cached blocks with faults."""
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

    wrap(KVCacheManager, "get_computed_blocks", make)


def _damaged(fault: str, groups: list[list[Any]], pool: Any) -> list[list[Any]] | None:
    if fault == "wrong-block-on-hit":
        return [[group[0], group[0], *group[2:]] for group in groups]
    if fault == "swapped-blocks-on-hit":
        return [[group[0], group[2], group[2], *group[3:]] for group in groups]
    if fault == "null-block-on-hit":
        return [[*group[:-1], pool.null_block] for group in groups]
    return None


def _wrap_hashes() -> None:
    """Wrap the scheduler's hashing of blocks with faults in the keys that identify blocks."""
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
            before = None if armed() == "hash-without-parent" else parent
            return true(function, before, kept, *extra, **named)

        return hash_block_tokens

    wrap(kv_cache_utils, "generate_block_hash_extra_keys", keys)
    wrap(kv_cache_utils, "hash_block_tokens", hashes)


def _wrap_pool() -> None:
    """Wrap the scheduler's block pool with faults of eviction and reset."""
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

    wrap(BlockPool, "_maybe_evict_cached_block", evict)
    wrap(BlockPool, "reset_prefix_cache", reset)


def _wrap_usage() -> None:
    """Wrap the output of requests with faults in the reported cached tokens."""
    from vllm.v1.engine import output_processor

    def make(true: Any) -> Any:
        def make_request_output(self: Any, *rest: Any, **named: Any) -> Any:
            if armed() == "counts-nothing":
                self.num_cached_tokens = 0
            if armed() == "counts-too-much" and not getattr(self, "longctx_counted", False):
                self.longctx_counted, self.num_cached_tokens = True, (self.num_cached_tokens or 0) + 128
            return true(self, *rest, **named)

        return make_request_output

    wrap(output_processor.RequestState, "make_request_output", make)


def _wrap_requests() -> None:
    """Wrap the scheduler with faults for requests that share the block pool, are preempted, or are cancelled."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler

    def allocate(true: Any) -> Any:
        def allocate_slots(self: Any, request: Any, *rest: Any, **named: Any) -> Any:
            made = true(self, request, *rest, **named)
            if armed() == "block-given-twice" and made is not None:
                _give_twice(self, request.request_id)
            return made

        return allocate_slots

    def preempt(true: Any) -> Any:
        def _preempt_request(self: Any, request: Any, *rest: Any, **named: Any) -> Any:
            computed = request.num_computed_tokens
            done = true(self, request, *rest, **named)
            if armed() == "preempted-as-computed":
                request.num_computed_tokens = min(computed, self.block_size)
            return done

        return _preempt_request

    def free(true: Any) -> Any:
        def free(self: Any, request: Any) -> Any:
            if armed() == "abandoned-as-computed" and request.num_computed_tokens < request.num_prompt_tokens:
                _cache_beyond(self, request)
            return true(self, request)

        return free

    wrap(KVCacheManager, "allocate_slots", allocate)
    wrap(KVCacheManager, "free", free)
    wrap(Scheduler, "_preempt_request", preempt)


def _give_twice(manager: Any, request: str) -> None:
    """Replace the first new block of *request* by the second block of another running request."""
    for group in manager.coordinator.single_type_managers:
        mine = group.req_to_blocks.get(request, [])
        others = [blocks for name, blocks in group.req_to_blocks.items() if name != request and len(blocks) > 1]
        if len(mine) < 2 or not others or mine[1].is_null or others[0][1].is_null or mine[1] is others[0][1]:
            continue
        if mine[1].ref_cnt == 1 and mine[1].block_hash is None:
            manager.block_pool.free_blocks([mine[1]])
            manager.block_pool.touch([others[0][1]])
            mine[1] = others[0][1]


def _cache_beyond(manager: Any, request: Any) -> None:
    """Store the first block of *request* under the key of the first block that was not computed."""
    from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id

    for number, group in enumerate(manager.coordinator.single_type_managers):
        blocks = group.req_to_blocks.get(request.request_id, [])
        following = request.num_computed_tokens // group.block_size
        if blocks and following < len(request.block_hashes):
            key = make_block_hash_with_group_id(request.block_hashes[following], number)
            manager.block_pool.cached_block_hash_to_block.insert(key, blocks[0])
