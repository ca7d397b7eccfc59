"""Layers with a state of fixed size: their weights and their states."""

from dataclasses import dataclass

from pytest_longctx.shapes.caches import Part, State
from pytest_longctx.shapes.tensors import ANY, Tensor, linear, norm


@dataclass(frozen=True, slots=True)
class Mamba1:
    """Sizes of a Mamba layer."""

    hidden: int
    inner: int
    state: int
    kernel: int
    step_rank: int
    conv_bias: bool = True
    bias: bool = False
    inner_norms: bool = False
    """Whether the inputs of the scan are normalised (Jamba)."""

    def tensors(self, path: str = "mixer") -> tuple[Tensor, ...]:
        """Return the weights of a recurrent Mamba layer."""
        norms = (*norm(f"{path}.dt_layernorm", self.step_rank), *norm(f"{path}.b_layernorm", self.state, copies=2))
        return (
            Tensor(f"{path}.A_log", self.inner * self.state, shards=ANY),
            Tensor(f"{path}.D", self.inner, shards=ANY),
            Tensor(f"{path}.conv1d", self.inner * self.kernel, shards=ANY),
            *((Tensor(f"{path}.conv1d.bias", self.inner, shards=ANY),) if self.conv_bias else ()),
            *linear(f"{path}.in_proj", 2 * self.inner, self.hidden, bias=self.bias),
            *linear(f"{path}.x_proj", self.step_rank + 2 * self.state, self.inner),
            *linear(f"{path}.dt_proj", self.inner, self.step_rank, bias=True),
            *linear(f"{path}.out_proj", self.hidden, self.inner, bias=self.bias, by_row=False),
            *(norms if self.inner_norms else ()),
        )

    def cached(self, dtype: str | None = None) -> State:
        """Return the recurrent and convolution state of a Mamba layer for one request."""
        conv = Part((self.kernel - 1) * self.inner)
        return State("mamba1", conv, Part(self.inner * self.state), dtype)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Sizes of a Mamba-2 layer."""

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    conv_bias: bool = True
    bias: bool = False
    out_bias: bool | None = None
    gate_norm: bool = True

    @property
    def inner(self) -> int:
        """Width of all heads of a recurrent Mamba-2 layer."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Width of the convolution in a recurrent Mamba-2 layer."""
        return self.inner + 2 * self.groups * self.state

    def tensors(self, path: str = "mixer") -> tuple[Tensor, ...]:
        """Return the weights of a recurrent Mamba-2 layer."""
        out_bias = self.bias if self.out_bias is None else self.out_bias
        return (
            *(Tensor(f"{path}.{name}", self.heads, shards=self.heads) for name in ("dt_bias", "A_log", "D")),
            Tensor(f"{path}.conv1d", self.channels * self.kernel, shards=self.heads),
            *((Tensor(f"{path}.conv1d.bias", self.channels, shards=self.heads),) if self.conv_bias else ()),
            *linear(
                f"{path}.in_proj",
                self.inner + self.channels + self.heads,
                self.hidden,
                bias=self.bias,
                shards=self.heads,
            ),
            *((Tensor(f"{path}.norm", self.inner, shards=self.heads),) if self.gate_norm else ()),
            *linear(f"{path}.out_proj", self.hidden, self.inner, bias=out_bias, shards=self.heads, by_row=False),
        )

    def cached(self, dtype: str | None = None) -> State:
        """
        Return the recurrent and convolution state of a Mamba-2 layer for one request.

        One group's part of the convolution is on every device if tensor parallelism exceeds the groups.
        """
        taps = self.kernel - 1
        of_groups = 2 * taps * self.groups * self.state
        conv = Part(taps * self.inner, shards=self.heads, grouped=of_groups, groups=self.groups)
        return State("mamba2", conv, Part(self.inner * self.state, shards=self.heads), dtype)


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Sizes of a gated delta rule (Qwen3-Next), or of Kimi's variant of this rule."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    gate_rank: int = 0
    """Kimi Delta Attention: the rank of its gates, with one decay for each value of a key."""
    full_gate: bool = False

    @property
    def channels(self) -> int:
        """Width of the convolution in a recurrent DeltaNet layer."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def tensors(self, path: str = "linear_attn") -> tuple[Tensor, ...]:
        """Return the weights of a recurrent DeltaNet layer."""
        h, out, n = self.hidden, self.value_heads * self.value_dim, self.value_heads
        shared = (
            Tensor(f"{path}.conv1d", self.channels * self.kernel, shards=n),
            *norm(f"{path}.norm", self.value_dim),
            *linear(f"{path}.in_proj_qkv", self.channels, h, shards=n),
            *linear(f"{path}.out_proj", h, out, shards=n, by_row=False),
            Tensor(f"{path}.A_log", n, shards=n),
        )
        if self.gate_rank:
            return shared + self._kimi_gates(path)
        gates = (*linear(f"{path}.in_proj_z", out, h, shards=n), *linear(f"{path}.in_proj_ba", 2 * n, h, shards=n))
        return (*shared, *gates, Tensor(f"{path}.dt_bias", n, shards=n))

    def _kimi_gates(self, path: str) -> tuple[Tensor, ...]:
        h, out, rank, n = self.hidden, self.value_heads * self.value_dim, self.gate_rank, self.value_heads
        low = (*linear(f"{path}.g_a_proj", rank, h, shards=1), *linear(f"{path}.g_b_proj", out, rank, shards=n))
        return (
            *linear(f"{path}.f_a_proj", rank, h, shards=1),
            *linear(f"{path}.f_b_proj", out, rank, shards=n),
            *linear(f"{path}.b_proj", n, h, shards=n),
            *(linear(f"{path}.g_proj", out, h, shards=n) if self.full_gate else low),
            Tensor(f"{path}.dt_bias", out, shards=n),
        )

    def cached(self, dtype: str | None = None) -> State:
        """Return the recurrent and convolution state of a DeltaNet layer for one request."""
        conv = Part((self.kernel - 1) * self.channels, shards=self.value_heads)
        recurrent = Part(self.value_heads * self.value_dim * self.key_dim, shards=self.value_heads)
        return State("kda" if self.gate_rank else "gated_delta", conv, recurrent, dtype)


def short_convolution(hidden: int, width: int, kernel: int, *, bias: bool, path: str = "conv") -> tuple[Tensor, ...]:
    """Return the weights of the recurrent layer of LFM2: a gated short convolution."""
    return (
        Tensor(f"{path}.conv", width * kernel, shards=ANY),
        *((Tensor(f"{path}.conv.bias", width, shards=ANY),) if bias else ()),
        *linear(f"{path}.in_proj", 3 * width, hidden, bias=bias),
        *linear(f"{path}.out_proj", hidden, width, bias=bias, by_row=False),
    )


def lightning(hidden: int, heads: int, dim: int, path: str = "self_attn") -> tuple[Tensor, ...]:
    """Return the weights of the recurrent layer of MiniMax: lightning attention."""
    wide = heads * dim
    return (
        *linear(f"{path}.qkv_proj", 3 * wide, hidden, shards=heads),
        *linear(f"{path}.out_proj", hidden, wide, shards=heads, by_row=False),
        *linear(f"{path}.output_gate", wide, hidden, shards=heads),
        Tensor(f"{path}.norm", wide, shards=heads),
    )


def lightning_cached(heads: int, dim: int) -> State:
    """Return the recurrent state of lightning attention for one request: one matrix for each head."""
    return State("lightning", Part(0), Part(heads * dim * dim, shards=heads))
