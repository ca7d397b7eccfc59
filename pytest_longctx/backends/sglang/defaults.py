"""
SGLang's defaults for missing flags: chunk, largest graphs, and the device share for weights and KV pool.

Sources: 0.5.16 to 0.5.23 (``server_args.py``, ``_handle_gpu_memory_settings``; since 0.5.19
``arg_groups/memory_hook.py``). They agree with the fractions that boots of 0.5.16 on an H100 and an H200 logged. 0.5.6
differs. Unknown: multimodal models, attention by data parallelism, and which MLA backends capture prefill graphs.
"""

from typing import Final

from pytest_longctx.toml import overlap

_MIB: Final = 1024**2
_FREE_BELOW_TOTAL_MIB: Final = 600
"""Torch reports less memory than ``nvidia-smi``, whose figure SGLang uses: 560 MiB less on an H100, 615 on an H200."""
_TOTAL_MIB: Final = {79: 81_559, 139: 143_771}
"""The figure of ``nvidia-smi`` by the whole GiB that torch reports, as observed on one H100 80GB HBM3 and one H200."""
_CHUNKS: Final[tuple[tuple[int, int, int, int], ...]] = (
    (20, 2048, 8, 8),
    (35, 2048, 24, 80),
    (60, 4096, 32, 160),
    (90, 8192, 256, 512),
    (160, 8192, 256, 512),
)
"""
Upper limit of device memory in GiB: chunk in tokens, and largest decode graph below four devices and from four on.
"""
_SMALL_CARDS_SINCE_0_5_20: Final = (35, 4096, 48, 160)
_LARGEST: Final = (0, 16_384, 512, 512)
MLA_GRAPHS_MIB: Final = 1536
"""Memory that prefill graphs of models with latents reserve (0.5.16 to 0.5.23). Triton's MLA captures none."""
_STEPS: Final = ((32, 4), (256, 16), (512, 32), (1024, 64), (4096, 256))
"""Sizes of prefill graphs: the step up to each number of tokens. Above the last, the step is 512."""


def total_mib(device_bytes: float) -> int:
    """
    Return the device memory that torch reports in the MiB that ``nvidia-smi`` reports, by which SGLang chooses
    defaults.
    """
    return _TOTAL_MIB.get(int(device_bytes // 1024**3), round(device_bytes / _MIB) + _FREE_BELOW_TOTAL_MIB)


def chunk_tokens(gpu_mib: int, version: str | None) -> int:
    """Return SGLang's default of ``--chunked-prefill-size``, in tokens."""
    return _row(gpu_mib, version)[1]


def largest_decode_graph(gpu_mib: int, tensor_parallel: int, version: str | None) -> int:
    """Return SGLang's default of ``--cuda-graph-max-bs-decode``, in requests."""
    return _row(gpu_mib, version)[2 if tensor_parallel < 4 else 3]


def prefill_graphs(most_tokens: int) -> int:
    """
    Return the number of prefill graphs that SGLang captures by default for up to *most_tokens*.

    >>> prefill_graphs(8192), prefill_graphs(16_384)
    (58, 74)
    """
    sizes, low = 0, 0
    for high, step in (*_STEPS, (most_tokens, 512)):
        sizes += max(0, min(high, most_tokens) - low) // step
        low = max(low, high)
    return sizes


def static_fraction(
    gpu_mib: int,
    chunk: int,
    decode_graphs: int | None,
    prefill_tokens: int,
    devices: int = 1,
    *,
    prefill_mib: int | None = None,
) -> float:
    """
    Return SGLang's default of ``--mem-fraction-static`` for a text model.

    *decode_graphs*: the largest batch of a decode graph, None without graphs. *prefill_tokens*: the largest prefill
    graph. *devices*: number of devices for tensor and pipeline parallelism together. *prefill_mib*: memory that prefill graphs
    reserve, if it does not follow from their number.

    >>> static_fraction(81_559, 8192, 256, 8192), static_fraction(143_771, 8192, 256, 8192)
    (0.83, 0.903)
    """
    prefills_mib = 8 * prefill_graphs(prefill_tokens) if prefill_mib is None else prefill_mib
    graphs_mib = 0 if decode_graphs is None else 2 * decode_graphs + prefills_mib
    reserved_mib = 512 + 1.5 * max(chunk, 2048) + devices / 8 * 1024 + graphs_mib
    if gpu_mib > 60 * 1024:
        reserved_mib = max(reserved_mib, 10 * 1024)
    return round((gpu_mib - reserved_mib) / gpu_mib, 3)


def _row(gpu_mib: int, version: str | None) -> tuple[int, int, int, int]:
    for row in _CHUNKS:
        if gpu_mib < row[0] * 1024:
            newer = version is None or not overlap(version, "<0.5.20")
            return _SMALL_CARDS_SINCE_0_5_20 if row[0] == 35 and newer else row
    return _LARGEST
