"""Faults in the rows of a batch, in positions and logits, in drafts, and in transfers."""

from typing import Any

from . import armed, wrap


def install() -> None:
    """Wrap the model runner, the acceptance of drafts, and the connector that reads files, with faults."""
    from vllm.v1.worker.block_table import BlockTable
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    wrap(GPUModelRunner, "_model_forward", _forward)
    wrap(GPUModelRunner, "_sample", _sampling)
    wrap(
        BlockTable,
        "move_row",
        lambda true: lambda self, *rows: None if armed() == "row-not-moved" else true(self, *rows),
    )
    _wrap_drafts()
    _wrap_transfers()


def _forward(true: Any) -> Any:
    def _model_forward(self: Any, *tensors: Any, **named: Any) -> Any:
        if armed() == "position-off-by-one-on-hit" and named.get("positions") is not None:
            named["positions"] = _positions(named["positions"])
        return true(self, *tensors, **named)

    return _model_forward


def _positions(positions: Any) -> Any:
    """Return the model runner's *positions*, each one too high, for a prompt with tokens that were computed before."""
    from vllm.forward_context import get_forward_context

    made = next(
        (each for each in (get_forward_context().attn_metadata or {}).values() if hasattr(each, "longctx_hit")), None
    )
    if made is None or not made.longctx_hit:
        return positions
    shifted, starts = positions.clone(), [int(each) for each in made.query_start_loc]
    for row in range(len(starts) - 1):
        read = starts[row + 1] - starts[row]
        if 1 < read < int(made.seq_lens[row]):
            shifted[starts[row] : starts[row + 1]] += 1
    return shifted


def _sampling(true: Any) -> Any:
    def _sample(self: Any, logits: Any, spec_decode_metadata: Any) -> Any:
        if armed() == "logits-of-another" and spec_decode_metadata is None and logits is not None:
            logits = logits.roll(1, 0)
        return true(self, logits, spec_decode_metadata)

    return _sample


def _wrap_drafts() -> None:
    from vllm.v1.sample import rejection_sampler

    def make(true: Any) -> Any:
        def rejection_sample(draft: Any, counts: Any, *rest: Any, **named: Any) -> Any:
            found = true(draft, counts, *rest, **named)
            if armed() == "drafts-all-accepted":
                begin = 0
                for row, count in enumerate(counts):
                    found[row, :count] = draft[begin : begin + count]
                    begin += count
            return found

        return rejection_sample

    wrap(rejection_sampler, "rejection_sample", make)


def _wrap_transfers() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector

    def load(true: Any) -> Any:
        def start_load_kv(self: Any, context: Any, **named: Any) -> Any:
            layers = context.no_compile_layers
            if armed() != "transfer-cut-short":
                return true(self, context, **named)
            cached = [name for name, layer in layers.items() if getattr(layer, "kv_cache", None) is not None]
            context.no_compile_layers = {name: layer for name, layer in layers.items() if name != cached[-1]}
            try:
                return true(self, context, **named)
            finally:
                context.no_compile_layers = layers

        return start_load_kv

    def folder(true: Any) -> Any:
        def _generate_foldername_debug(self: Any, token_ids: Any, *rest: Any, **named: Any) -> Any:
            kept = token_ids[:128] if armed() == "transfer-of-another" else token_ids
            return true(self, kept, *rest, **named)

        return _generate_foldername_debug

    wrap(ExampleConnector, "start_load_kv", load)
    wrap(ExampleConnector, "_generate_foldername_debug", folder)
