"""Faults in the KV cache entries that attention writes and reads."""

from typing import Any

from . import armed, wrap

_MANY = 4
_FAR_TOKENS = 8192
_AT_BORDER = 4


def install() -> None:
    """Wrap the attention of vLLM's CPU build with faults in the KV cache entries that it writes and reads."""
    from vllm.v1.attention.backends import cpu_attn

    wrap(cpu_attn.CPUAttentionMetadataBuilder, "build", _building)
    wrap(cpu_attn.CPUAttentionBackendImpl, "do_kv_cache_update", _storing)
    wrap(cpu_attn.CPUAttentionBackendImpl, "forward", _attending)


def _building(true: Any) -> Any:
    def build(self: Any, common_prefix_len: int, common: Any, *rest: Any, **named: Any) -> Any:
        made = true(self, common_prefix_len, common, *rest, **named)
        made.block_table = _table(armed(), made, self.block_size)
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
        if rest and (slots := _slots(armed(), rest[-1])) is not None:
            rest = (*rest[:-1], slots)
        if fault == "values-halved":
            value = value * 0.5
        if fault == "keys-zeroed":
            key = key * 0.0
        if fault == "nan":
            value = value.clone()
            value[0] = float("nan")
        return true(self, layer, key, value, *rest)

    return do_kv_cache_update


def _slots(fault: str, slots: Any) -> Any:
    """Return *slots* of the attention cache without those that *fault* leaves unwritten; None if all are written."""
    if fault not in ("last-of-chunk-lost", "answer-not-stored"):
        return None
    made = _metadata()
    if made is None:
        return None
    starts = made.query_start_loc
    read = starts[1:] - starts[:-1]
    lost = starts[1:][read > 1] - 1 if fault == "last-of-chunk-lost" else starts[:-1][read == 1]
    kept = slots.clone()
    kept[lost.long()] = -1
    return kept


def _metadata() -> Any:
    """Return the attention metadata of the current batch; None while the engine warms up."""
    from vllm.forward_context import get_forward_context

    found = get_forward_context().attn_metadata
    return next((each for each in (found or {}).values() if hasattr(each, "longctx_hit")), None)


def _attending(true: Any) -> Any:
    def forward(self: Any, layer: Any, query: Any, *tensors: Any, **named: Any) -> Any:
        fault, made = armed(), named.get("attn_metadata") or tensors[3]
        kept = self.sliding_window, self.sinks
        if fault in ("window-too-small", "window-too-large") and self.sliding_window > 0:
            self.sliding_window += 1 if fault == "window-too-large" else -1
        if fault == "sinks-left-out":
            self.sinks = None
        hit = made is not None and made.longctx_hit
        if fault == "scale-lost-on-hit" and hit:
            query = query * 0.5
        try:
            found = true(self, layer, query, *tensors, **named)
        finally:
            self.sliding_window, self.sinks = kept
        if hit and _is_last(layer) and fault == "values-of-hits-scaled":
            found.mul_(1.1)
        return found

    return forward


def _is_last(layer: Any) -> bool:
    """Return whether the attention *layer* is the fourth, which reads the probe's needles."""
    return ".3." in getattr(layer, "layer_name", "")


def _hit(made: Any) -> bool:
    """Return whether attention computes a prompt after tokens that were computed before: a cache hit, or a later chunk."""
    read = made.query_start_loc[1:] - made.query_start_loc[:-1]
    return bool(((read > 1) & (made.seq_lens[: read.shape[0]] > read)).any())


def _table(fault: str, made: Any, size: int) -> Any:
    """Return the block table *made* for attention, with the entries that *fault* changes."""
    table, lengths = made.block_table, made.seq_lens
    requests = int(lengths.shape[0])
    if fault == "swapped-requests" and requests > 1:
        swapped = table.clone()
        swapped[[0, 1]] = table[[1, 0]]
        return swapped
    if not fault.startswith("wrong-block") or fault == "wrong-block-on-hit":
        return table
    read = (made.query_start_loc[1:] - made.query_start_loc[:-1])[:requests]
    wrong = table.clone()
    for row in range(requests):
        if _misread(fault, int(lengths[row]), [int(each) for each in read], row, size):
            wrong[row, 1] = wrong[row, 0]
    return wrong


def _misread(fault: str, length: int, read: list[int], row: int, size: int) -> bool:
    """
    Return whether *fault* makes attention read a wrong block for the request in *row* with *length* tokens.

    *read* has the new tokens of all requests.
    """
    if length <= 2 * size:
        return False
    return {
        "wrong-block": True,
        "wrong-block-in-company": len(read) >= _MANY,
        "wrong-block-far": length > _FAR_TOKENS,
        "wrong-block-beside-a-prompt": read[row] == 1 and max(read) > 1,
        "wrong-block-at-border": read[row] == 1 and (length - 1) % size < _AT_BORDER,
    }[fault]
