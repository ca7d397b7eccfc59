"""The division of a server over devices, and the shape that one device holds, for the predictors of memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import ceil

from pytest_longctx.deployments.deployment import FlagValue
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes import ModelShape


@dataclass(frozen=True, slots=True)
class Spread:
    """The parallel sizes of one server."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    """Number of ranks with their own KV cache. A request is in one of them."""
    context: int = 1
    """Number of ranks of prefill context parallelism, which need additional devices."""
    shared: bool = False
    """Whether data-parallel ranks share the devices of tensor parallelism (SGLang's data-parallel attention)."""

    @property
    def devices(self) -> int:
        """Number of devices of the server, by all kinds of parallelism together."""
        return self.tensor * self.pipeline * self.context * (1 if self.shared else self.data)

    @property
    def attention(self) -> int:
        """Number of devices that share the heads of one layer's attention."""
        return max(1, self.tensor // self.data) if self.shared else self.tensor

    @property
    def experts(self) -> int:
        """Number of devices that share the experts of one layer."""
        return self.tensor if self.shared else self.tensor * self.data

    def __str__(self) -> str:
        parts = {"tensor": self.tensor, "pipeline": self.pipeline, "data": self.data, "context": self.context}
        return ", ".join(f"{name} parallel {size}" for name, size in parts.items() if size > 1) or "one device"


def of_flags(engine: str, flags: Mapping[str, FlagValue]) -> Spread:
    """Return the sizes of tensor, pipeline, data and context parallelism in *flags*, which have canonical names."""

    def size(name: str) -> int:
        value = flags.get(name, 1)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1

    if engine == "vllm":
        kinds = ("tensor", "pipeline", "data", "prefill-context")
        tensor, pipeline, data, context = (size(f"{kind}-parallel-size") for kind in kinds)
        return Spread(tensor, pipeline, data, context)
    shared = bool(flags.get("enable-dp-attention")) or size("attn-dp-size") > 1
    data = max(size("dp-size"), size("attn-dp-size"))
    return Spread(size("tp-size"), size("pp-size"), data, shared=shared and data > 1)


def without(engine: str, flags: Mapping[str, FlagValue], spread: Spread) -> dict[str, FlagValue]:
    """
    Return *flags* of one rank, without the flags of data parallelism. `held` returns the shape of one rank.

    For SGLang the size of tensor parallelism is set to the size for attention.
    """
    if engine == "vllm":
        gone = {"data-parallel-size", "enable-expert-parallel", "data-parallel-size-local", "data-parallel-backend"}
        return {name: value for name, value in flags.items() if name not in gone}
    left = {
        name: value
        for name, value in flags.items()
        if name not in ("dp-size", "ep-size", "pp-size", "load-balance-method")
    }
    return {**left, "tp-size": spread.attention}


@dataclass(frozen=True)
class Counted(ModelShape):
    """A model whose weights are counted once, and whose experts may be divided among more devices than its attention."""

    ratio: int = 1
    """Devices that share the experts / devices that share the attention."""
    counts: dict[tuple[int, float | None], int] = field(default_factory=dict, compare=False)
    """Counted bytes, by number of devices and bytes of a value that is not quantised."""

    def weight_bytes(self, tensor_parallel: int = 1, value_bytes: float | None = None) -> int:
        """Return the bytes of the weights on one device. A tensor that only some tokens use is counted as an expert."""
        key = (tensor_parallel, value_bytes)
        if key not in self.counts:
            whole = super().weight_bytes(tensor_parallel, value_bytes)
            if self.ratio > 1:
                parts = (tensor_parallel, tensor_parallel * self.ratio)
                together, apart = (self._expert_bytes(each, value_bytes) for each in parts)
                whole = ceil(whole - together + apart)
            self.counts[key] = whole
        return self.counts[key]

    def _expert_bytes(self, devices: int, value_bytes: float | None) -> float:
        plain = 2 if value_bytes is None else value_bytes
        return sum(
            self.scheme.bytes_of(tensor, index, plain, devices)
            for index, layer in enumerate(self.stack)
            for tensor in layer.tensors
            if tensor.active is not None
        )

    def stage(self, stages: int) -> ModelShape:
        """Return the largest of *stages* pipeline stages, with its own count of weights."""
        part = super().stage(stages)
        return replace(part, counts={}) if isinstance(part, Counted) and part is not self else part


def held(shape: Shape, engine: str, spread: Spread, known: dict[tuple[int, int], Shape]) -> Shape:
    """
    Return *shape* reduced to the part that one device holds.

    Experts are divided among all ranks together (vLLM ``FusedMoEParallelConfig``, with and without expert parallelism).
    A pipeline stage of SGLang is a separate model. *known* caches what was made of this shape before.
    """
    ratio = spread.experts // spread.attention
    key = (ratio, spread.pipeline if engine == "sglang" else 1)
    if key not in known:
        whole = shape.whole
        if whole is not None:
            taken = {each.name: getattr(whole, each.name) for each in fields(ModelShape)}
            whole = Counted(**taken, ratio=ratio)
        known[key] = replace(shape, whole=whole).stage(key[1])
    return known[key]
