"""The measured speed of this machine's CPU, and the expected times that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ATTENTION_SHARE: Mapping[str, float] = MappingProxyType({"bfloat16": 0.14, "float32": 0.25})
"""
Speed of vLLM's attention kernels as a share of a plain matrix product in that dtype on the same cores.

Prefills of the probe, vLLM 0.32.0 on two cores: 318 of 2,330 GFLOP/s with AMX, in BF16; 28 to 42 of 129 with AVX2, in
FP32.
"""

NARROW_HEAD_DIM = 64
"""Head dimension below which each instruction does less work. With 32, half the rate was measured."""

REFERENCE_PYTHON_S = 0.00033
REFERENCE_BOOT_S = 45.0
"""Boot time of vLLM's CPU build, mostly Python imports: 34 to 60 s if `python_s` was `REFERENCE_PYTHON_S`."""

REFUSAL_SHARE = 0.9
"""Time of a refused boot as a share of a successful one. Both import the modules: 40 and 94 s against 43 and 98 s."""

DEADLINE_FACTOR = 8.0
"""A request is cancelled after this multiple of the expected time, because other programs may use the machine."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured speed of PyTorch on this CPU, with the interpreter that starts the engine."""

    gflop_per_s: Mapping[str, float]
    """Rate of a matrix product, by dtype."""
    copy_gb_per_s: float
    python_s: float
    """Time of a fixed amount of pure Python, which is most of a boot."""
    lacks: frozenset[str] = frozenset()
    """CPU flags that the engine's PyTorch reports as missing, even if the kernel reports them."""

    @property
    def fastest_dtype(self) -> str:
        """The dtype with the fastest matrix product on the measured CPU. Of two equal dtypes, the smaller."""
        return max(("bfloat16", "float32"), key=lambda name: self.gflop_per_s.get(name, 0.0))

    @property
    def boot_s(self) -> float:
        """Expected boot time of a small model on the measured CPU, in seconds."""
        return REFERENCE_BOOT_S * max(self.python_s / REFERENCE_PYTHON_S, 0.5)

    def prefill_s(self, products_flop: float, attention_flop: float, dtype: str, head_dim: int) -> float:
        """
        Return the expected prefill time in seconds on the measured CPU: *products_flop* in matrix products,
        *attention_flop* in attention.

        Attention has separate kernels. Without BF16 instructions they compute in FP32, and only the products are slow.
        """
        product = self.gflop_per_s.get(dtype, self.gflop_per_s["float32"]) * 1e9
        attention = (
            max(self.gflop_per_s[name] * ATTENTION_SHARE[name] for name in {dtype, "float32"} & set(ATTENTION_SHARE))
            * 1e9
        )
        narrow = min(1.0, head_dim / NARROW_HEAD_DIM)
        return products_flop / product + attention_flop / (attention * narrow)

    def facts(self) -> Mapping[str, str]:
        """Return the measured CPU speeds as facts for the header of results."""
        rates = {f"cpu_{name}_gflop_per_s": f"{rate:.1f}" for name, rate in self.gflop_per_s.items()}
        more = {"cpu_copy_gb_per_s": f"{self.copy_gb_per_s:.1f}", "cpu_python_us": f"{self.python_s * 1e6:.0f}"}
        lacking = {"cpu_engine_lacks": " ".join(sorted(self.lacks))} if self.lacks else {}
        return MappingProxyType({**rates, **more, **lacking})

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:,.0f} in {name}" for name, rate in self.gflop_per_s.items())
        return f"{rates} GFLOP/s, copies {self.copy_gb_per_s:.1f} GB/s"


def fastest_by_flags(flags: frozenset[str] | None) -> str:
    """
    Return the fastest dtype of a CPU without a measured speed: BF16 if the processor has instructions for it or is
    unknown, else FP32.
    """
    if flags is None or flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        return "bfloat16"
    return "float32"
