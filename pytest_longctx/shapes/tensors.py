"""The weights of a model as shapes of tensors, and their division by tensor parallelism."""

from math import ceil
from typing import NamedTuple

ANY = 1 << 40
"""Tensor parallelism can shard it over any number of devices."""
WHOLE = 1
"""Replicated on every device."""


class Tensor(NamedTuple):
    """One weight of a layer, or several equal weights."""

    name: str
    """Path of its module within the layer, as the checkpoint spells it and ``quantization_config`` uses it."""
    rows: int
    columns: int = 0
    """0: a vector (a norm, a bias), which no scheme quantises."""
    copies: int = 1
    active: int | None = None
    """Number of copies used for one token; None: all."""
    shards: int = WHOLE
    """Maximum number of shards; with more devices, shards are replicated."""
    slices: int = 1
    """Matrices in one copy (a convolution's taps): numbers count, its scales do not."""

    @property
    def numbers(self) -> int:
        """Number of parameters in all copies of the tensor."""
        return self.rows * max(self.columns, 1) * self.slices * self.copies

    @property
    def active_numbers(self) -> int:
        """Number of parameters of the tensor that are used for one token."""
        return self.numbers if self.active is None else self.numbers // self.copies * self.active

    def on_device(self, tensor_parallel: int) -> int:
        """Return the number of parameters of this tensor on one of several devices."""
        return ceil(self.numbers / min(tensor_parallel, self.shards))


def linear(
    name: str, rows: int, columns: int, *, bias: bool = False, shards: int = ANY, by_row: bool = True
) -> tuple[Tensor, ...]:
    """
    Return the tensors of a linear layer: a matrix, and its bias if any. If sharded by columns, the bias is on every
    device.
    """
    matrix = Tensor(name, rows, columns, shards=shards)
    return (matrix, Tensor(f"{name}.bias", rows, shards=shards if by_row else WHOLE)) if bias else (matrix,)


def norm(name: str, size: int, *, bias: bool = False, copies: int = 1) -> tuple[Tensor, ...]:
    """Return the tensors of a normalisation layer: a scale, and an offset if it has one."""
    scale = Tensor(name, size, copies=copies)
    return (scale, Tensor(f"{name}.bias", size, copies=copies)) if bias else (scale,)
