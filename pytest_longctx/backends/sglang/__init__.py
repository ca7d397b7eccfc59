"""Backend for SGLang's HTTP server."""

from pytest_longctx.backends import Backend, MetricNames
from pytest_longctx.backends.sglang import memory
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.toml import in_range, overlap
from pytest_longctx.units import GiB

TAKEN_BYTES = 0.7 * GiB
"""Device memory that CUDA takes before anything is loaded: 139.80 - 139.13 GiB on an H200, 0.5.16."""


class Sglang(Backend):
    """SGLang on NVIDIA GPUs, by its OpenAI-compatible endpoint, which accepts token ids."""

    name = "sglang"
    package = "sglang"
    distributions = ("sglang",)
    host_flag = "--host"
    key_flag = "--api-key"
    # /health answers 503 during the prefill of a long chunk, which is no failure; it is only checked before the first request,
    # and after a failed one.
    health = "/health"
    version_path = "/server_info"
    names_cached_if_any = True  # by --enable-cache-report
    metrics = MetricNames.of("sglang")
    reset_path = "/flush_cache"
    salted = True

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--context-length", str(deployment.max_model_len))
        return (
            *(python, "-m", "sglang.launch_server"),
            *("--port", str(port)),
            *("--model-path", model, "--served-model-name", deployment.model.name),
            *limit,
            *("--enable-metrics", "--enable-cache-report"),
            *deployment.arguments(),
        )

    def host_s(self, deployment: Deployment, shape: Shape, prompt_tokens: int) -> float:
        flags = deployment.flags
        chunk_tokens = int(flags.get("chunked-prefill-size", memory.CHUNK_TOKENS))
        if flags.get("disable-radix-cache") or chunk_tokens < 1 or not overlap(deployment.version, memory.WALKS):
            return 0.0
        windowed = shape.chunked + shape.sliding
        return memory.radix_walk_s(prompt_tokens, chunk_tokens, shape.window if windowed else None)

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        if deployment.max_model_len is None or device_bytes is None:
            return None
        flags = deployment.flags
        requests = flags.get("max-running-requests")
        old = deployment.version is not None and in_range("0.5.6", deployment.version)
        batches = None if flags.get("disable-cuda-graph") else int(flags.get("cuda-graph-max-bs", 512 if old else 256))
        return memory.Boot(
            shape,
            device_bytes - TAKEN_BYTES,
            deployment.max_model_len,
            float(flags.get("mem-fraction-static", 0.85)),
            value_bytes=1 if str(flags.get("kv-cache-dtype", "auto")).startswith("fp8") else 2,
            weight_value_bytes=deployment.model.weight_bits / 8,
            tensor_parallel=int(flags.get("tp", flags.get("tensor-parallel-size", 1))),
            max_running_requests=None if requests is None else int(requests),
            cuda_graph_max_bs=batches,
            page_size=int(flags.get("page-size", 1)),
            # 0.5.6 has the pool for windowed layers only on request (--hybrid-kvcache-ratio).
            hybrid_pool=not old,
        ).predict()
