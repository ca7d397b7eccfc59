"""Bytes of each tensor under ``quantization_config``, with scales, and the tensors that are not quantised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType

from pytest_longctx.shapes.modules import Modules, module_names
from pytest_longctx.shapes.tensors import Tensor

NEVER = frozenset(
    """embed_tokens embed_positions embed_tokens_per_layer per_layer_model_projection lm_head
    mlp.gate mixer.gate mlp.shared_expert_gate
    mixer.shared_expert_gate feed_forward.gate mlp.router self_attn.indexer.weights_proj embed_type altup laurel
    hc.fn hc.down hc.up hc.inject hc.head hc_head.fn""".split()  # noqa: SIM905
)
"""Modules that engines never quantise: tables, routers, and what mixes residual streams."""
NGRAMS = "ple.ple_embedding.ngram_embedding"
"""A table that only FP8 packs (Qwen4), and what lists it as such."""


@dataclass(frozen=True, slots=True)
class Coding:
    """The storage of the numbers of one matrix: bits, scales and packing."""

    bits: float
    scale_bytes: float = 0
    """Bytes of one scale, with its zero point if there is one."""
    group: int = 0
    """Numbers of a row that share a scale; 0: the whole row; -1: the whole matrix."""
    block_rows: int = 1
    """Number of rows that share a scale."""
    column_bytes: int = 0
    """Bytes per column of a column order (GPTQ)."""

    def bytes_of(self, tensor: Tensor) -> float:
        """Return the bytes of all copies of *tensor* as quantised by this coding, scales included."""
        copies = tensor.copies * tensor.slices
        if self.group < 0:
            scales = 1
        else:
            scales = ceil(tensor.rows / self.block_rows) * (ceil(tensor.columns / self.group) if self.group else 1)
        return tensor.numbers * self.bits / 8 + copies * (
            scales * self.scale_bytes + tensor.columns * self.column_bytes
        )


@dataclass(frozen=True)
class Scheme:
    """The coding of each matrix of a model."""

    name: str = ""
    coding: Coding | None = None
    """Coding of every matrix without a more specific rule; None: not quantised."""
    kept: Modules = field(default_factory=Modules)
    """Modules that are not quantised."""
    chosen: tuple[tuple[Modules, Coding | None], ...] = ()
    """Modules with their own coding; the first match counts."""
    experts_only: bool = False
    head: bool = False
    """Whether the output table is quantised too."""
    kv_dtype: str | None = None
    """The dtype of the KV cache that the checkpoint requests."""

    def bytes_of(self, tensor: Tensor, layer: int | None, plain_bytes: float, tensor_parallel: int) -> float:
        """Return the bytes of *tensor* on one device under the quantisation scheme."""
        coding = self._coding(tensor, layer)
        share = tensor.on_device(tensor_parallel) / tensor.numbers if tensor.numbers else 0
        return (tensor.numbers * plain_bytes if coding is None else coding.bytes_of(tensor)) * share

    def _coding(self, tensor: Tensor, layer: int | None) -> Coding | None:
        if (self.coding is None and not self.chosen) or not tensor.columns:
            return None
        if tensor.name in NEVER and not (self.head and tensor.name == "lm_head"):
            return None
        if self.experts_only and ".experts." not in tensor.name:
            return None
        names = module_names(tensor.name, layer)
        if self.kept.match(names):
            return None
        for modules, coding in self.chosen:
            if modules.match(names) and not (tensor.name == NGRAMS and modules.all):
                return coding
        return None if tensor.name == NGRAMS and self.name != "fp8" else self.coding


PLAIN_SCHEME = Scheme()

CODINGS: Mapping[str, Coding] = MappingProxyType(
    {
        "FP8": Coding(8, 4, group=-1),
        "FP8_PER_CHANNEL_PER_TOKEN": Coding(8, 4),
        "FP8_PB_WO": Coding(8, 4, group=128, block_rows=128),
        "NVFP4": Coding(4, 1, group=16),
        "NVFP4_AWQ": Coding(4, 1, group=16),
        "W4A16_NVFP4": Coding(4, 1, group=16),
        "MXFP4": Coding(4, 1, group=32),
        "MXFP8": Coding(8, 1, group=32),
        "W4A16_AWQ": Coding(4, 2.5, group=128),
        "W4A8_AWQ": Coding(4, 2.5, group=128),
        "INT8_SQ": Coding(8, 4),
        "W8A8_SQ_PER_CHANNEL": Coding(8, 4),
    }
)
"""Codings by ModelOpt's names."""
