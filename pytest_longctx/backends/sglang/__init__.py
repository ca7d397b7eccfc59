"""Backend for SGLang's HTTP server."""

from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.backends import Backend, MetricNames, Scoring
from pytest_longctx.backends.flags import arguments
from pytest_longctx.backends.sglang import defaults, memory, radix_tree
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes import ModelShape
from pytest_longctx.shapes.caches import Attention, Latent, State
from pytest_longctx.toml import in_range, overlap
from pytest_longctx.units import GiB

TAKEN_BYTES = 0.7 * GiB
"""Device memory that CUDA uses before anything is loaded: 139.80 - 139.13 GiB on an H200, 0.5.16."""
CONNECTED_BYTES = (0.0, 0.0, 1.5 * GiB)
"""
Additional memory for communication on two or more devices: least, usual and most.

Observed: nothing on eight H200s (0.5.6, which therefore has no interval), 1.0 GiB on eight H100s (public log of 0.5.2).
"""
READ = ("==0.5.6", "==0.5.6.post2", ">=0.5.16")
"""Versions whose default of ``--mem-fraction-static`` is known from their sources."""
UNREAD_FRACTION = 0.06
"""Largest deviation of another version's default: 0.88 of 0.4.1 on an H100, and 0.83 by the rules of 0.5.6."""

_MULTIMODAL_FRACTION = 0.85
"""SGLang's default fraction for Llama 4, the only multimodal model whose memory is known here."""
_TENSOR_PARALLEL = ("tp", "tp-size", "tensor-parallel-size")
_UNMODELLED = frozenset(
    """dp dp-size data-parallel-size enable-dp-attention ep ep-size expert-parallel-size speculative-algorithm cpu-offload-gb
    pp pp-size pipeline-parallel-size hicache-size enable-hierarchical-cache attn-cp-size""".split()  # noqa: SIM905
)
"""Flags that change the memory of a device and that `Sglang.predict` ignores."""
_LLAMA_4 = "Llama4ForConditionalGeneration"
_WINDOW_POOLS = frozenset(
    """BeamForCausalLM EmbeddingGemma2Model
    Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration GptOssForCausalLM
    GraniteMoeSWAForCausalLM GraniteSWAForCausalLM IQuestQ1ForCausalLM LagunaForCausalLM
    MellumForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration
    Step3p5ForCausalLM Step3p7ForConditionalGeneration""".split()  # noqa: SIM905
)
"""
Classes besides Llama 4 whose layers with a window have their own pool, by ``--swa-full-tokens-ratio``.

From ``is_hybrid_swa_model`` and ``get_hybrid_layer_ids`` of 0.5.16 and 0.5.23 (``srt/configs/model_config.py``), and
``HybridSWAPoolConfigurator`` (``srt/model_executor/pool_configurator.py``).
"""
_OTHER_POOLS = frozenset(
    """DeepseekV4ForCausalLM DiffusionGemmaForBlockDiffusion Dots3NoteForCausalLM InklingForConditionalGeneration
    UnlimitedOCRForCausalLM""".split()  # noqa: SIM905
)
"""Classes that divide their pools in another way, which is not modelled."""
_NEWER_POOLS = frozenset(
    """BeamForCausalLM EmbeddingGemma2Model GraniteMoeSWAForCausalLM GraniteSWAForCausalLM IQuestQ1ForCausalLM
    MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration""".split()  # noqa: SIM905
)
"""Classes of `_WINDOW_POOLS` that 0.5.23 has and 0.5.16 does not have."""
_STATES = ("mamba2", "gated_delta")
"""Kinds of state whose slots appear in logs (Nemotron-H, Qwen3-Next; 0.5.16)."""
_UNSEEN = frozenset({"hy_v4", "mistral4"})
"""Types with latents that appear here only in vLLM's sources."""


def _window_pool(shape: Shape) -> bool:
    """Return whether SGLang gives layers with a window their own KV pool."""
    return shape.whole is None or shape.architecture in (_LLAMA_4, *_WINDOW_POOLS)


class Sglang(Backend):
    """SGLang on NVIDIA GPUs. Its OpenAI-compatible endpoint accepts token ids."""

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
    # Its OpenAI endpoint names tokens by their texts, of which several may be equal. A request for the scores of a
    # whole prompt takes nothing from the radix cache.
    scoring = Scoring(
        "/generate",
        "input_ids",
        "top_logprobs_num",
        MappingProxyType(
            {
                "sampling_params": {"max_new_tokens": 1, "temperature": 0, "ignore_eos": True},
                "return_logprob": True,
                "logprob_start_len": 0,
            }
        ),
        "sglang",
        named=False,
    )

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--context-length", str(deployment.max_model_len))
        return (
            *(python, "-m", "sglang.launch_server"),
            *("--port", str(port)),
            *("--model-path", model, "--served-model-name", deployment.model.name),
            *limit,
            *("--enable-metrics", "--enable-cache-report"),
            *arguments(deployment, "sglang"),
        )

    def host_s(self, deployment: Deployment, shape: Shape, prompt_tokens: int) -> float:
        flags = deployment.flags
        chunk_tokens = int(flags.get("chunked-prefill-size", memory.CHUNK_TOKENS))
        if flags.get("disable-radix-cache") or chunk_tokens < 1 or not overlap(deployment.version, radix_tree.MEASURED):
            return 0.0
        windowed = (shape.chunked or shape.sliding) and _window_pool(shape)
        return radix_tree.host_s(prompt_tokens, chunk_tokens, deployment.version, shape.window if windowed else None)

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        if deployment.max_model_len is None or device_bytes is None:
            return None
        seen = self.tensor_parallel(deployment) == 1 or _is_0_5_6(deployment)
        connected = (0.0, 0.0, 0.0) if seen else CONNECTED_BYTES
        unsaid = "mem-fraction-static" not in deployment.flags
        spread = UNREAD_FRACTION if unsaid and not _read(deployment) else 0.0
        most, usual, least = (
            self._boot(deployment, shape, device_bytes - TAKEN_BYTES - taken, more)
            for taken, more in zip(connected, (spread, 0.0, -spread), strict=True)
        )
        return _bounded(usual, least, most)

    def _boot(self, deployment: Deployment, shape: Shape, free_bytes: float, more: float) -> memory.Boot:
        """Return the memory of an SGLang boot on devices with *free_bytes*, with the memory fraction raised by *more*."""
        flags = deployment.flags
        device_bytes, context = free_bytes + TAKEN_BYTES, deployment.max_model_len or 0
        requests = flags.get("max-running-requests")
        old = deployment.version is not None and in_range("0.5.6", deployment.version)
        devices = self.tensor_parallel(deployment)
        gpu_mib = defaults.total_mib(device_bytes)
        usual = 512 if old else defaults.largest_decode_graph(gpu_mib, devices, deployment.version)
        graphs_at_most = flags.get("cuda-graph-max-bs-decode", flags.get("cuda-graph-max-bs", usual))
        batches = None if flags.get("disable-cuda-graph") else int(graphs_at_most)
        chunk_tokens = int(flags.get("chunked-prefill-size", defaults.chunk_tokens(gpu_mib, deployment.version)))
        fraction = _MULTIMODAL_FRACTION
        latent = _latents(shape)
        if not (shape.chunked and _window_pool(shape)):
            # 0.5.6 reserves for decode graphs even when they are off, and captures none of a prefill.
            graphs = (usual, 0) if old else (batches, 0 if batches is None else chunk_tokens)
            triton = flags.get("attention-backend") == "triton"
            mla_mib = None if not latent or old else 0 if triton or batches is None else defaults.MLA_GRAPHS_MIB
            fraction = defaults.static_fraction(gpu_mib, chunk_tokens, *graphs, devices, prefill_mib=mla_mib)
        asked = "fp8" if self.takes_kv_dtype(deployment, shape) else "auto"
        given = str(flags.get("kv-cache-dtype", "auto"))
        fp8 = (asked if given == "auto" else given).startswith("fp8")
        slots, most_tokens = flags.get("max-mamba-cache-size"), flags.get("max-total-tokens")
        return memory.Boot(
            shape,
            free_bytes,
            context,
            float(flags.get("mem-fraction-static", fraction)) + more,
            value_bytes=1 if fp8 else 2,
            weight_value_bytes=deployment.model.weight_bits / 8,
            tensor_parallel=devices,
            max_running_requests=None if requests is None else int(requests),
            cuda_graph_max_bs=batches,
            page_size=int(flags.get("page-size", 1)),
            # 0.5.6 has the pool for windowed layers only on request (--hybrid-kvcache-ratio).
            hybrid_pool=not old and _window_pool(shape) and not flags.get("disable-hybrid-swa-memory", False),
            swa_ratio=float(flags.get("swa-full-tokens-ratio", memory.SWA_RATIO)),
            latent_bytes=memory.PACKED_LATENT_BYTES if fp8 and any(cache.index_dim for cache in latent) else None,
            indexed_by_all=deployment.version is not None and overlap(deployment.version, "<0.5.23"),
            state_value_bytes=2 if flags.get("mamba-ssm-dtype") == "bfloat16" else 4,
            state_ratio=float(flags.get("mamba-full-memory-ratio", memory.STATE_RATIO)),
            state_slots=None if slots is None else int(slots),
            max_total_tokens=None if most_tokens is None else int(most_tokens),
        )

    def takes_kv_dtype(self, deployment: Deployment, shape: Shape) -> bool:
        # ``srt/mem_cache/kv_cache_dtype.py``, 0.5.16 and 0.5.23: ModelOpt's FP8, and nothing else, is FP8 e4m3.
        scheme = shape.whole.scheme if shape.whole is not None else None
        return scheme is not None and scheme.name == "modelopt" and scheme.kv_dtype == "fp8"

    def tensor_parallel(self, deployment: Deployment) -> int:
        return int(next((deployment.flags[name] for name in _TENSOR_PARALLEL if name in deployment.flags), 1))

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        whole = shape.whole
        if whole is None or (found := super().unmodelled(deployment, shape)):
            return "" if whole is None else found
        if found := self._on_device(deployment) or _irregular(shape, whole):
            return f"the memory of {self.name} {found}"
        if found := _not_pooled(deployment, shape, whole):
            return f"the memory of {self.name} for {whole.model_type} is not modelled: {found}"
        if whole.vision_parameters and shape.architecture != _LLAMA_4 and "mem-fraction-static" not in deployment.flags:
            return f"the memory of {self.name} for models with a vision encoder is not modelled without --mem-fraction-static"
        return ""

    def _on_device(self, deployment: Deployment) -> str:
        """Return the reason why SGLang's memory on this kind of device is not modelled; empty if it is modelled."""
        there = deployment.hardware and Hardware.parse(deployment.hardware).kind.startswith("MI")
        return "on AMD devices is not modelled: AITER's workspace is subtracted from the pool" if there else ""


def _irregular(shape: Shape, whole: ModelShape) -> str:
    """Return the reason why the windows of a model are not modelled for SGLang; empty if they are modelled."""
    regular = [bool(cache.window) for layer in whole.stack for cache in layer.caches if not isinstance(cache, State)]
    if shape.architecture == _LLAMA_4 and regular != [(i + 1) % 4 != 0 for i in range(len(regular))]:
        return "is not modelled where not just every fourth layer of Llama 4 is full"
    if shape.chunked + shape.sliding and not shape.architecture:
        return "is not modelled: config.json has windows, and names no class (architectures)"
    return ""


def _is_0_5_6(deployment: Deployment) -> bool:
    """Return whether the SGLang version is 0.5.6, whose boots on eight devices were measured."""
    return deployment.version is not None and in_range("0.5.6.post2", deployment.version)


def _read(deployment: Deployment) -> bool:
    """
    Return whether the default of ``--mem-fraction-static`` in this SGLang version is known. No version means the
    newest.
    """
    return deployment.version is None or any(overlap(deployment.version, each) for each in READ)


SHOWN_FROM_BYTES = 0.5 * GiB
"""A smaller spread is not shown."""


def _bounded(usual: memory.Boot, least: memory.Boot, most: memory.Boot) -> Prediction:
    """
    Return the prediction of SGLang's *usual* boot with the bounds of its KV pool. If the bounds differ in outcome, it
    is in doubt.
    """
    found = usual.predict()
    low, high = least.pool_bytes, most.pool_bytes
    if high - low <= SHOWN_FROM_BYTES:
        return found
    terms = tuple(replace(term, bounds_bytes=(low, high)) if term.name == "KV pool" else term for term in found.terms)
    holds = {_holds(one) for one in (least, usual, most)}
    why = _WHY[least.mem_fraction_static == most.mem_fraction_static]
    doubt = "" if len(holds) == 1 else f"the KV pool may have {low / GiB:.2f} to {high / GiB:.2f} GiB: {why}"
    return replace(found, terms=terms, doubt=doubt)


_WHY = {
    True: "the device memory that communication uses varies by that much",
    False: "the default of --mem-fraction-static in this version is not known; give a value",
}


def _holds(one: memory.Boot) -> bool:
    found = one.predict()
    return found.fits and found.longest_tokens >= (found.advertised_tokens or 0)


def _latents(shape: Shape) -> tuple[Latent, ...]:
    """Return the MLA latents that layers of *shape* cache."""
    attentions = shape.model.attentions if shape.model is not None else ()
    return tuple(cache for cache, _ in attentions if isinstance(cache, Latent))


def _not_pooled(deployment: Deployment, shape: Shape, whole: ModelShape) -> str:
    """Return the key or flag for which SGLang's pools are not modelled; empty if the pools are modelled."""
    architecture, flags = shape.architecture, deployment.flags
    attentions = [cache for cache, _ in whole.attentions]
    windowed = any(cache.window for cache in attentions)
    pooled = architecture in _NEWER_POOLS and deployment.version is not None and overlap(deployment.version, "<0.5.23")
    capped = flags.get("disable-radix-cache") and flags.get("max-running-requests") and windowed and _window_pool(shape)
    dtype = str(flags.get("kv-cache-dtype", "auto"))
    checks = {
        "a special pool for its windows": architecture in _OTHER_POOLS,
        "a pool for its windows, which 0.5.23 has and 0.5.16 does not have": pooled,
        "a state of another kind than " + " and ".join(_STATES): any(s.kind not in _STATES for s, _ in whole.states),
        "no layer that attends (architectures)": not attentions,
        "layers without a cache of their own (num_kv_shared_layers, block_configs)": _shares(whole),
        "latents of several tokens (compress_ratios)": any(c.rate != 1 or c.window for c in _latents(shape)),
        "an indexer's keys of several tokens (index_kpool)": any(c.index_rate != 1 for c in _latents(shape)),
        f"the pools of {whole.model_type}, which no source and no log has shown": whole.model_type in _UNSEEN,
        "an indexer beside keys and values": any(isinstance(c, Attention) and c.index_dim for c in attentions),
        "--disable-radix-cache with --max-running-requests and windows": bool(capped),
        f"--kv-cache-dtype {dtype}": dtype not in ("auto", "bfloat16", "bf16", "float16")
        and not dtype.startswith("fp8"),
        "mamba_ssm_dtype of its config": any(s.recurrent_dtype == "bfloat16" for s, _ in whole.states),
    }
    return next((name for name, found in checks.items() if found), "")


def _shares(whole: ModelShape) -> bool:
    """
    Return whether some layers have no entry in SGLang's KV cache. In a model with states, such layers are feed-forward
    layers.
    """
    return not whole.states and any(not layer.caches for layer in whole.stack)
