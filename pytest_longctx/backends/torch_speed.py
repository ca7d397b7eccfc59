"""
Measure PyTorch's matrix and copy rates on this machine's CPU in one or two seconds, and print a line of JSON.

It runs in the engine's interpreter and environment: ``ONEDNN_MAX_CPU_ISA`` alone changes the result a hundredfold. That
interpreter may not have this package, so this module imports nothing of it.
"""

import json
import time
from collections.abc import Callable
from typing import Any

_DTYPES = ("bfloat16", "float32")
_FOR_S = 0.15
"""Seconds for which each product is repeated. The fastest run counts, because other programs can only slow a run down."""
_SMALL, _LARGE = 256, 512
"""Rows of the matrices. Small ones come first: a CPU without BF16 takes seconds for one product of large ones."""
_COPIED_BYTES = 16 * 2**20
_LOOPS = 10_000


def fastest_s(work: Callable[[], object]) -> float:
    """Return the shortest time in seconds of several runs of *work*, after one warm-up run."""
    work()
    least_s, end_s = float("inf"), time.perf_counter() + _FOR_S
    while True:
        began_s = time.perf_counter()
        work()
        now_s = time.perf_counter()
        least_s = min(least_s, now_s - began_s)
        if now_s > end_s:
            return least_s


def gflop_per_s(torch: Any, name: str) -> float:
    """Return the measured rate of PyTorch's matrix product in the dtype *name*, in GFLOP/s on one core."""
    rate = 0.0
    for rows in (_SMALL, _LARGE):
        if rows == _LARGE and 2 * _LARGE**3 / (rate * 1e9) > _FOR_S:
            break
        left, right = (torch.rand(rows, rows).to(getattr(torch, name)) for _ in range(2))
        seconds = fastest_s(lambda left=left, right=right: torch.matmul(left, right))  # type: ignore[misc]
        rate = max(rate, 2 * rows**3 / seconds / 1e9)
    return rate


def lacks(torch: Any) -> list[str]:
    """Return the instruction sets that this PyTorch reports as missing, and that an engine's kernels use or require."""
    asked = {
        "avx512f": "_is_avx512_supported",
        "avx512_vnni": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
    }
    asked |= dict.fromkeys(("amx_tile", "amx_bf16", "amx_int8"), "_is_amx_tile_supported")
    return [flag for flag, name in asked.items() if hasattr(torch.cpu, name) and not getattr(torch.cpu, name)()]


def main() -> None:
    """Measure PyTorch's speed on this CPU, and print the result as one line of JSON."""
    import torch  # noqa: PLC0415 - other interpreters import this module for its path

    threads = torch.get_num_threads()
    # Threads that wait for one another are disproportionately slow if another program uses a core.
    torch.set_num_threads(1)
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    found = {
        "gflop_per_s": {name: threads * gflop_per_s(torch, name) for name in _DTYPES},
        "copy_gb_per_s": _COPIED_BYTES / fastest_s(lambda: target.copy_(source)) / 1e9,
        "python_s": fastest_s(lambda: sum(i * i for i in range(_LOOPS))),
        "lacks": lacks(torch),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
