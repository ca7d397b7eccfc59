"""vLLM's ROCm build: the same engine on AMD's GPUs."""

from pytest_longctx.backends.vllm import Vllm


class VllmRocm(Vllm):
    """vLLM on AMD GPUs: the same flags, metrics and log lines, where "CUDA out of memory" reads "HIP"."""

    name = "vllm-rocm"
    distributions = ("vllm-rocm", "vllm")
    failures = "vllm"
