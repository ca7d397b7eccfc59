"""How fast the CPU of this machine was measured to be, and what is expected of it from that."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ATTENTION_SHARE: Mapping[str, float] = MappingProxyType({"bfloat16": 0.14, "float32": 0.25})
"""
What vLLM's attention kernels reach of a plain matrix product in that dtype on the same cores.

Prefills of the probe, vLLM 0.32.0 on two cores: 318 of 2,330 GFLOP/s with AMX, in BF16; 28 to 42 of 129 with AVX2, in FP32.
"""

NARROW_HEAD_DIM = 64
"""Heads of fewer dimensions use less of each instruction: half the rate was seen with 32."""

REFERENCE_PYTHON_S = 0.00033
REFERENCE_BOOT_S = 45.0
"""A boot of vLLM's CPU build is Python reading its modules: 34 to 60 s where `python_s` was `REFERENCE_PYTHON_S`."""

REFUSAL_SHARE = 0.9
"""A boot that is refused has read its modules, which is most of it: 40 and 94 s beside 43 and 98 s of boots that served."""

DEADLINE_FACTOR = 8.0
"""How much longer than expected a request may take before it is given up: the rest of the machine may be busy."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What PyTorch does on this CPU, in the environment in which the engine is started."""

    gflop_per_s: Mapping[str, float]
    """Of a matrix product, by dtype."""
    copy_gb_per_s: float
    python_s: float
    """Of a fixed amount of pure Python, which is what most of a boot is."""
    lacks: frozenset[str] = frozenset()
    """Flags of processors that the engine's PyTorch says are not there, whatever the kernel says."""

    @property
    def fastest_dtype(self) -> str:
        """The dtype in which most is multiplied in a second; of two that are equal the smaller."""
        return max(("bfloat16", "float32"), key=lambda name: self.gflop_per_s.get(name, 0.0))

    @property
    def boot_s(self) -> float:
        """What a boot of a small model is expected to take."""
        return REFERENCE_BOOT_S * max(self.python_s / REFERENCE_PYTHON_S, 0.5)

    def prefill_s(self, products_flop: float, attention_flop: float, dtype: str, head_dim: int) -> float:
        """
        The time to read a prompt whose matrices take *products_flop* and whose attention takes *attention_flop*.

        Attention has kernels of its own: without BF16 instructions they compute in FP32, and only the products are slow.
        """
        product = self.gflop_per_s.get(dtype, self.gflop_per_s["float32"]) * 1e9
        attention = (
            max(self.gflop_per_s[name] * ATTENTION_SHARE[name] for name in {dtype, "float32"} & set(ATTENTION_SHARE))
            * 1e9
        )
        narrow = min(1.0, head_dim / NARROW_HEAD_DIM)
        return products_flop / product + attention_flop / (attention * narrow)

    def facts(self) -> Mapping[str, str]:
        """For the header of results."""
        rates = {f"cpu_{name}_gflop_per_s": f"{rate:.1f}" for name, rate in self.gflop_per_s.items()}
        more = {"cpu_copy_gb_per_s": f"{self.copy_gb_per_s:.1f}", "cpu_python_us": f"{self.python_s * 1e6:.0f}"}
        lacking = {"cpu_engine_lacks": " ".join(sorted(self.lacks))} if self.lacks else {}
        return MappingProxyType({**rates, **more, **lacking})

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:,.0f} in {name}" for name, rate in self.gflop_per_s.items())
        return f"{rates} GFLOP/s, copies {self.copy_gb_per_s:.1f} GB/s"


def fastest_by_flags(flags: frozenset[str] | None) -> str:
    """The dtype to take where nothing was measured: BF16 only where the processor has instructions for it, or is not known."""
    if flags is None or flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        return "bfloat16"
    return "float32"
