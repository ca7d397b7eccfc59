"""Feed-forward layers: dense, and mixtures of experts."""

from dataclasses import dataclass

from pytest_longctx.shapes.tensors import ANY, Tensor, linear, norm


def dense(hidden: int, width: int, *, gated: bool = True, bias: bool = False, path: str = "mlp") -> tuple[Tensor, ...]:
    """Return the weights of a dense feed-forward layer: two matrices, or three with a gate."""
    gate = linear(f"{path}.gate_proj", width, hidden, bias=bias) if gated else ()
    up = linear(f"{path}.up_proj", width, hidden, bias=bias)
    return (*gate, *up, *linear(f"{path}.down_proj", hidden, width, bias=bias, by_row=False))


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in one layer."""

    count: int
    used: int
    width: int
    shared_width: int = 0
    """Width of all shared experts together."""
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    correction: bool = False
    """Whether a correction vector of the routing is a parameter."""
    input_width: int = 0
    """Width of the experts' input if the layer projects down to it first (LatentMoE); 0: the hidden size."""
    input_norm: bool = False
    idle: int = 0
    """Number of experts that only pass on their input; the router has them, but they have no weights."""


def mixture(hidden: int, e: Experts, path: str = "mlp") -> tuple[Tensor, ...]:
    """Return the weights of one feed-forward mixture of experts."""
    inner, used = e.input_width or hidden, min(e.used, e.count)
    down_bias = [Tensor(f"{path}.experts.down_proj.bias", inner, copies=e.count, active=used)] if e.bias else []
    made = [Tensor(f"{path}.gate", e.count + e.idle, hidden)]
    if e.router_bias or e.correction:
        made.append(Tensor(f"{path}.gate.bias", e.count + e.idle))
    for name in ("gate_proj", "up_proj") if e.gated else ("up_proj",):
        made.append(Tensor(f"{path}.experts.{name}", e.width, inner, copies=e.count, active=used, shards=ANY))
        if e.bias:
            made.append(Tensor(f"{path}.experts.{name}.bias", e.width, copies=e.count, active=used, shards=ANY))
    made.append(Tensor(f"{path}.experts.down_proj", inner, e.width, copies=e.count, active=used, shards=ANY))
    if e.shared_width:
        made += dense(hidden, e.shared_width, gated=e.gated, path=f"{path}.shared_experts")
    if e.shared_gate:
        made.append(Tensor(f"{path}.shared_expert_gate", 1, hidden))
    if e.input_width:
        made += linear(f"{path}.fc1_latent_proj", inner, hidden, shards=1)
        made += linear(f"{path}.fc2_latent_proj", hidden, inner, shards=1)
        made += norm(f"{path}.latent_norm", inner) if e.input_norm else ()
    return (*made, *down_bias)
