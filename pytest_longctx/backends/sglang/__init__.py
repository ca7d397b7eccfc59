"""Backend for SGLang's HTTP server."""

from pytest_longctx.backends import Backend, MetricNames
from pytest_longctx.backends.sglang import defaults, memory
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.caches import State
from pytest_longctx.toml import in_range, overlap
from pytest_longctx.units import GiB

TAKEN_BYTES = 0.7 * GiB
"""Device memory that CUDA takes before anything is loaded: 139.80 - 139.13 GiB on an H200, 0.5.16."""

_MULTIMODAL_FRACTION = 0.85
"""What SGLang chooses for Llama 4, the one multimodal model whose memory is known here."""
_TENSOR_PARALLEL = ("tp", "tp-size", "tensor-parallel-size")
_UNMODELLED = frozenset(
    """dp dp-size data-parallel-size enable-dp-attention ep ep-size expert-parallel-size speculative-algorithm cpu-offload-gb
    pp pp-size pipeline-parallel-size hicache-size enable-hierarchical-cache attn-cp-size""".split()  # noqa: SIM905
)
"""Flags that change what a device holds, and that `Sglang.predict` does not look at."""
_LLAMA_4 = "Llama4ForConditionalGeneration"
_OTHER_WINDOW_POOLS = frozenset(
    """BeamForCausalLM DeepseekV4ForCausalLM DiffusionGemmaForBlockDiffusion Dots3NoteForCausalLM EmbeddingGemma2Model
    Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration GptOssForCausalLM
    GraniteMoeSWAForCausalLM GraniteSWAForCausalLM InklingForConditionalGeneration IQuestQ1ForCausalLM LagunaForCausalLM
    MellumForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration
    Step3p5ForCausalLM Step3p7ForConditionalGeneration UnlimitedOCRForCausalLM""".split()  # noqa: SIM905
)
"""
Classes beside Llama 4 whose windows have a pool of their own; its split is not modelled.

From ``is_hybrid_swa_model`` and ``get_hybrid_layer_ids`` of 0.5.16 and 0.5.23 (``srt/configs/model_config.py``).
"""


def _window_pool(shape: Shape) -> bool:
    """Whether layers with a window have a pool of their own: of what was read, only Llama 4 as a multimodal model."""
    return shape.whole is None or shape.architecture == _LLAMA_4


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
    unmodelled_flags = _UNMODELLED
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
        windowed = (shape.chunked or shape.sliding) and _window_pool(shape)
        return memory.radix_walk_s(prompt_tokens, chunk_tokens, shape.window if windowed else None)

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        if deployment.max_model_len is None or device_bytes is None:
            return None
        flags = deployment.flags
        requests = flags.get("max-running-requests")
        old = deployment.version is not None and in_range("0.5.6", deployment.version)
        devices = self.tensor_parallel(deployment)
        gpu_mib = defaults.total_mib(device_bytes)
        usual = 512 if old else defaults.largest_decode_graph(gpu_mib, devices, deployment.version)
        graphs_at_most = flags.get("cuda-graph-max-bs-decode", flags.get("cuda-graph-max-bs", usual))
        batches = None if flags.get("disable-cuda-graph") else int(graphs_at_most)
        chunk_tokens = int(flags.get("chunked-prefill-size", defaults.chunk_tokens(gpu_mib, deployment.version)))
        fraction = _MULTIMODAL_FRACTION
        if not (shape.chunked and _window_pool(shape)):
            # 0.5.6 reserves for decode graphs even when they are off, and captures none of a prefill.
            graphs = (usual, 0) if old else (batches, 0 if batches is None else chunk_tokens)
            fraction = defaults.static_fraction(gpu_mib, chunk_tokens, *graphs, devices)
        return memory.Boot(
            shape,
            device_bytes - TAKEN_BYTES,
            deployment.max_model_len,
            float(flags.get("mem-fraction-static", fraction)),
            value_bytes=1 if str(flags.get("kv-cache-dtype", "auto")).startswith("fp8") else 2,
            weight_value_bytes=deployment.model.weight_bits / 8,
            tensor_parallel=devices,
            max_running_requests=None if requests is None else int(requests),
            cuda_graph_max_bs=batches,
            page_size=int(flags.get("page-size", 1)),
            # 0.5.6 has the pool for windowed layers only on request (--hybrid-kvcache-ratio).
            hybrid_pool=not old and _window_pool(shape),
        ).predict()

    def tensor_parallel(self, deployment: Deployment) -> int:
        return int(next((deployment.flags[name] for name in _TENSOR_PARALLEL if name in deployment.flags), 1))

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        whole = shape.whole
        if whole is None or (found := super().unmodelled(deployment, shape)):
            return "" if whole is None else found
        windows = shape.chunked + shape.sliding
        regular = [
            bool(cache.window) for layer in whole.stack for cache in layer.caches if not isinstance(cache, State)
        ]
        if shape.architecture == _LLAMA_4 and regular != [(i + 1) % 4 != 0 for i in range(len(regular))]:
            return f"the memory of {self.name} is not modelled where not just every fourth layer of Llama 4 is full"
        if windows and not shape.architecture:
            return f"the memory of {self.name} is not modelled: config.json has windows, and names no class (architectures)"
        if windows and shape.architecture in _OTHER_WINDOW_POOLS:
            return f"the memory of {self.name} for {whole.model_type} is not modelled: a pool for its windows"
        if whole.vision_parameters and shape.architecture != _LLAMA_4 and "mem-fraction-static" not in deployment.flags:
            return f"the memory of {self.name} for models with a vision tower is not modelled without --mem-fraction-static"
        return ""
