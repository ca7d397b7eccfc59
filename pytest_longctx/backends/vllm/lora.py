"""Memory of LoRA adapters in vLLM: their slots. Source: 0.32.0, ``lora/layers`` (``create_lora_weights``)."""

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.tensors import Tensor

_ROWS = ("o_proj", "down_proj", "out_proj", "dense_4h_to_h")
"""Last parts of names of matrices that tensor parallelism divides by columns of their input."""
DEFAULT_LORAS, DEFAULT_RANK = 1, 16
"""``--max-loras`` and ``--max-lora-rank``, 0.11 to 0.33."""


def adapters_bytes(deployment: Deployment, shape: Shape, tensor_parallel: int) -> float:
    """
    Return the bytes of the slots for LoRA adapters on one device, which vLLM allocates with the model.

    Each matrix has ``--max-loras`` pairs of ``--max-lora-rank`` rows. The side that tensor parallelism does not divide
    is whole on every device. The tables at both ends of the model have slots, too.
    """
    flags = deployment.flags
    if not flags.get("enable-lora") or shape.model is None:
        return 0.0
    slots = _whole(flags.get("max-loras"), DEFAULT_LORAS) * _whole(flags.get("max-lora-rank"), DEFAULT_RANK)
    sharded = bool(flags.get("fully-sharded-loras"))
    every = (tensor for layer in shape.model.stack for tensor in layer.tensors)
    matrices = (tensor for tensor in every if tensor.columns and not tensor.name.endswith(".gate"))
    values = sum(tensor.copies * _sides(tensor, tensor_parallel, sharded=sharded) for tensor in matrices)
    return 2.0 * slots * (values + 2 * (shape.vocabulary + shape.hidden))


def _whole(value: object, usual: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else usual


def _sides(tensor: Tensor, devices: int, *, sharded: bool) -> float:
    """Return the number of values in one row of a pair of LoRA matrices, both sides together, on one device."""
    cut = min(devices, tensor.shards)
    rows, columns = float(tensor.rows), float(tensor.columns)
    if tensor.name.endswith(_ROWS):
        return rows / (cut if sharded else 1) + columns / cut
    return rows / cut + columns / (cut if sharded else 1)
