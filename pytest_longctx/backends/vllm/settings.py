"""
vLLM's settings for a deployment: the values of its flags, and the defaults of its version and device.

``docs/reference/memory-defaults.md`` has the defaults and their sources.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_longctx.backends.vllm import kv_dtypes, overhead, speculative
from pytest_longctx.backends.vllm.overhead import Trial
from pytest_longctx.backends.vllm.pages import Layout
from pytest_longctx.deployments.accelerators import Accelerator, every
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes import ModelShape
from pytest_longctx.shapes.caches import Latent
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

ALIGNED_STATES: Final = ">=0.25"
"""Versions whose prefix cache by default keeps states, in blocks aligned with the blocks of attention; not in 0.12."""
ALIGNED_ON_REQUEST: Final = ">=0.20"
"""Versions that align pages on request, as logs of 0.20.0 state. Versions between 0.12 and 0.20 are unknown."""
CHECKPOINTS: Final = {"mamba2": ">=0.32", "gated_delta": ">=0.33"}
"""
Kinds of state with one more block for a checkpoint of a prefill, and the first version (in 0.32.0 only Mamba-2's
mixer).
"""
IN_FLIGHT: Final = "<0.32"
"""
Versions whose windows reserve tokens for one batch. 0.32 reserves for two batches if it schedules ahead
(``max_in_flight_tokens``).
"""
LATENTS: Final = frozenset(
    """axk1 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 glm_moe_dsa glm4_moe_lite kimi_k2 kimi_linear longcat_flash
    bailing_hybrid glm5_next_text hy_v4""".split()  # noqa: SIM905
)
"""
Model types whose latents are cached (``is_deepseek_mla``, 0.32.0). For others, every head's keys and values are cached.
"""


def device(deployment: Deployment) -> Accelerator | None:
    """Return the accelerator in the settings of *deployment*; None if the settings name none."""
    return every().get(Hardware.parse(deployment.hardware).kind) if deployment.hardware else None


def all_in(deployment: Deployment, versions: str) -> bool:
    """Return whether the vLLM of *deployment* may be one of *versions*. No version means the newest."""
    return deployment.version is None or overlap(deployment.version, versions)


@dataclass(frozen=True, slots=True)
class Load:
    """The number of requests and tokens that the engine computes at once."""

    max_num_seqs: int
    max_batched_tokens: int


def load(deployment: Deployment, device_bytes: float) -> Load:
    """Return ``--max-num-seqs`` and ``--max-num-batched-tokens``: as given, or vLLM's defaults for this device."""
    flags, here = deployment.flags, device(deployment)
    tokens, requests = 2048, 256
    if device_bytes >= 160 * GiB and all_in(deployment, ">=0.28"):
        tokens, requests = 16_384, 1024
    elif device_bytes >= 70 * GiB and not (here is not None and _small_batches(deployment, here)):
        tokens, requests = 8192, 1024
    if flags.get("performance-mode") == "throughput":
        tokens, requests = 2 * tokens, 2 * requests
    longest = deployment.max_model_len or tokens
    if flags.get("enable-chunked-prefill") is False or flags.get("no-enable-chunked-prefill"):
        tokens = max(longest, tokens)
    requests = int(flags.get("max-num-seqs", requests))
    tokens = int(flags.get("max-num-batched-tokens", min(requests * longest, tokens)))
    return Load(min(requests, tokens), tokens)


def _small_batches(deployment: Deployment, here: Accelerator) -> bool:
    """Return whether a device of 70 GiB or more gets the defaults of small devices: A100s by their name, GB10 since 0.33."""
    return here.kind.startswith("A100") or (here.kind == "GB10" and all_in(deployment, ">=0.33"))


def model_bytes(deployment: Deployment, model: ModelShape | None) -> int:
    """Return the bytes of a value in the dtype that the model computes with, which is FP32 only on request."""
    del model  # "auto" is 16 bits also for a config in FP32
    return 4 if str(deployment.flags.get("dtype")) in ("float32", "float") else 2


def takes_kv_dtype(deployment: Deployment, shape: Shape) -> bool:
    """
    Return whether vLLM uses the KV cache dtype that the checkpoint names: that of ModelOpt since 0.25
    (``utils/torch_utils.py``).
    """
    return shape.whole is not None and shape.whole.scheme.name == "modelopt" and all_in(deployment, ">=0.25")


def kv_dtype(deployment: Deployment, shape: Shape) -> str:
    """Return the value of vLLM's ``--kv-cache-dtype``: as given, as the checkpoint names it, or ``auto``."""
    dtype = str(deployment.flags.get("kv-cache-dtype", "auto"))
    if dtype == "auto" and shape.whole is not None and takes_kv_dtype(deployment, shape):
        return shape.whole.scheme.kv_dtype or dtype
    here = device(deployment)
    if (
        dtype == "auto"
        and shape.architecture == "GlmMoeDsaForCausalLM"
        and here is not None
        and here.family == "blackwell"
    ):
        return "fp8_e4m3"
    return dtype


def layout(deployment: Deployment, shape: Shape, *, hybrid: bool, ratio: float, on_cpu: bool = False) -> Layout | None:
    """Return the layout of vLLM's pages for *deployment*; None if ``--kv-cache-dtype`` is unknown."""
    flags, model = deployment.flags, shape.model
    dtype, size = kv_dtype(deployment, shape), model_bytes(deployment, model)
    found = [cache for cache, _ in model.attentions if isinstance(cache, Latent)] if model is not None else []
    sparse, here = any(cache.index_dim for cache in found), device(deployment)
    keys = kv_dtypes.of_keys(dtype, size) or (kv_dtypes.PLAIN[2] if found else None)
    latents = kv_dtypes.of_latents(dtype, size, packs_fp8=sparse and here is not None and here.family == "hopper")
    if keys is None or (found and latents is None):
        return None
    states = str(flags.get("mamba-cache-dtype", "auto"))
    recurrent = str(flags.get("mamba-ssm-cache-dtype", "auto"))
    usual = _block(deployment, latent=bool(found), sparse=sparse, on_cpu=on_cpu)
    fixed = bool(found) and on_cpu and usual == REFERENCE_LATENT_BLOCK
    block = usual if fixed else int(flags.get("block-size", usual))
    return Layout(
        keys=keys,
        latents=latents or keys,
        conv_bytes=4 if states == "float32" else size,
        recurrent_bytes=_recurrent_bytes(recurrent, model, on_cpu=on_cpu),
        tensor_parallel=int(flags.get("tensor-parallel-size", 1)),
        block_size=block,
        alignment=block if on_cpu else 16,
        hybrid=hybrid,
        prefix_caching=_keeps_states(deployment, model, on_cpu=on_cpu),
        checkpoints=frozenset(kind for kind, since in CHECKPOINTS.items() if all_in(deployment, since)),
        group_ratio=ratio,
        drafted=speculative.draft_tokens(flags),
        shards=int(flags.get("decode-context-parallel-size", 1)),
    )


EXCERPTS: Final = ("qwen3_5_text", "qwen3_5_moe_text")
"""
Model types whose published configs all have ``mamba_ssm_dtype`` float32, so that a config without this key is an
excerpt.
"""


def _recurrent_bytes(dtype: str, model: ModelShape | None, *, on_cpu: bool) -> float | None:
    """
    Return the bytes of a value of a recurrent state by vLLM's dtype settings. None means as in the config, or as for
    the convolution.
    """
    if dtype != "auto":
        return 4 if dtype == "float32" else 2
    silent = model is not None and any(state.recurrent_dtype is None for state, _ in model.states)
    # The models of a CPU boot are made, and the engine takes their word.
    return 4 if silent and model is not None and model.model_type in EXCERPTS and not on_cpu else None


REFERENCE_LATENT_BLOCK: Final = 16
"""
Tokens of a block in the CPU build's reference kernel of MLA, which has only this size. The AMX kernel takes any size;
the default is 128.
"""


def _block(deployment: Deployment, *, latent: bool, sparse: bool, on_cpu: bool) -> int:
    """Return the default of vLLM's ``--block-size``, in tokens."""
    if on_cpu:
        amx = str(deployment.flags.get("attention-backend", "")).upper() == "AMX_MLA"
        return REFERENCE_LATENT_BLOCK if latent and not amx else 128
    old = deployment.version is not None and overlap(deployment.version, "<0.13")
    return 64 if latent and (sparse or old) else 16


def _keeps_states(deployment: Deployment, model: ModelShape | None, *, on_cpu: bool) -> bool:
    flags = deployment.flags
    if flags.get("enable-prefix-caching") is False or flags.get("no-enable-prefix-caching"):
        return False
    if flags.get("enable-prefix-caching"):
        return True
    attends = model is not None and bool(model.attentions)
    latent = model is not None and any(isinstance(cache, Latent) for cache, _ in model.attentions)
    return attends and all_in(deployment, ALIGNED_STATES) and not (on_cpu and latent)


def in_flight(deployment: Deployment, batch: int) -> int:
    """Return the number of tokens that vLLM may have scheduled without a result yet, for batches of *batch* tokens."""
    stages = int(deployment.flags.get("pipeline-parallel-size", 1))
    if deployment.version is None or overlap(deployment.version, IN_FLIGHT):
        return batch
    ahead = deployment.flags.get("async-scheduling", True) is not False and not deployment.flags.get(
        "no-async-scheduling"
    )
    return batch * (stages + 1 if ahead else stages)  # of the second runner (``max_concurrent_batches``)


SHARE: Final = 0.92
"""Default of ``--gpu-memory-utilization`` (0.25 to 0.33; a log of 0.20.1 agrees)."""
OLD_SHARE: Final = 0.9
"""The default before 0.20: a log of 0.19.0 reports 0.9000 without a flag."""


def share(deployment: Deployment) -> float:
    """Return ``--gpu-memory-utilization``, as given or by default."""
    old = deployment.version is not None and overlap(deployment.version, "<0.20")
    return float(deployment.flags.get("gpu-memory-utilization", OLD_SHARE if old else SHARE))


_FIRST_RUNNERS: Final = ("suffix", "medusa", "mlp_speculator", "custom_class")
"""Speculative methods that the second runner lacks (0.32.0, ``_get_v2_model_runner_unsupported_features``)."""
_SECOND_SINCE: Final = {"Qwen3ForCausalLM": ">=0.22", "LlamaForCausalLM": ">=0.23", "MistralForCausalLM": ">=0.23"}
"""Classes that use the second runner by default before all classes do, with their first versions (release notes)."""


def second_runner(deployment: Deployment, shape: Shape) -> bool | None:
    """
    Return whether vLLM uses its second model runner; None if unknown.

    Since 0.29 for all except `_FIRST_RUNNERS` (``VllmConfig.use_v2_model_runner``, source of 0.32.0). Before, for dense
    models by class, if their weights are not quantised; logs of 0.27 and 0.28 agree.
    """
    said = deployment.env.get("VLLM_USE_V2_MODEL_RUNNER", "")
    if said in ("0", "1"):
        return said == "1"
    if all_in(deployment, "<0.22") and deployment.version is not None:
        return False
    if any(f'"{each}"' in str(deployment.flags.get("speculative-config", "")) for each in _FIRST_RUNNERS):
        return False
    here = device(deployment)
    if deployment.version is None or not overlap(deployment.version, "<0.29"):
        return None if here is not None and here.kind.startswith("MI") else True
    whole = shape.whole
    dense = whole is not None and not whole.states and not whole.scheme.name and whole.vision_parameters == 0
    if (
        whole is None
        or not dense
        or any(tensor.active is not None for layer in whole.stack for tensor in layer.tensors)
    ):
        return False
    return True if all_in(deployment, _SECOND_SINCE.get(shape.architecture, "<0")) else None


def trial(deployment: Deployment, loaded: Load, shape: Shape, *, tensor_parallel: int) -> Trial:
    """Return the profiling run that determines the size of the pool, by the settings of *deployment*."""
    here = device(deployment)
    widest = 1024 if here is not None and here.family == "blackwell" and all_in(deployment, ">=0.28") else 512
    widest = int(deployment.flags.get("max-cudagraph-capture-size", widest))
    return Trial(
        loaded.max_num_seqs,
        loaded.max_batched_tokens,
        tensor_parallel,
        value_bytes=model_bytes(deployment, None),
        eager=_without_graphs(deployment.flags),
        version=deployment.version,
        linked=here is None or (here.linked and here.family in ("hopper", "blackwell")),
        flashinfer=_samples_with_flashinfer(deployment),
        graphs=overhead.graph_sizes(loaded.max_num_seqs, loaded.max_batched_tokens, widest),
        second_runner=second_runner(deployment, shape),
        context=deployment.max_model_len,
        hopper=None if here is None else here.family == "hopper",
        shared=here is not None and here.kind == "GB10",
    )


def _without_graphs(flags: Mapping[str, Any]) -> bool:
    """Return whether vLLM captures no graphs: ``--enforce-eager``, ``-O0``, or a ``cudagraph_mode`` of NONE."""
    if flags.get("enforce-eager", False) or str(flags.get("optimization-level", "")) == "0":
        return True
    try:
        told = json.loads(str(flags.get("compilation-config", "{}")))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and str(told.get("cudagraph_mode", "")).upper() == "NONE"


def _samples_with_flashinfer(deployment: Deployment) -> bool:
    said = deployment.env.get("VLLM_USE_FLASHINFER_SAMPLER")
    return deployment.image is not None if said is None else said == "1"


OF_QWEN_2 = frozenset(
    {"qwen2", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "qwen3", "qwen3_vl_text", "mimo"}
)
"""Model types whose class in vLLM extends that of Qwen 2 (``models/qwen2.py``)."""
_ONE_WINDOW = OF_QWEN_2 | {
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_vl_moe_text",
    "qwen3_omni_moe_text",
    "mixtral",
    "starcoder2",
}
"""Model types whose class in vLLM has one window for all layers, or none, whatever kinds the config lists (0.32.0)."""


def unlaid(deployment: Deployment, shape: Shape) -> str:
    """Return the setting or key for which vLLM's pages of *shape* are unknown; empty if they are known."""
    model, flags = shape.whole, deployment.flags
    if model is None:
        return ""
    latents = [cache for cache, _ in model.attentions if isinstance(cache, Latent)]
    sparse = any(cache.index_dim for cache in latents)
    old = deployment.version is not None and overlap(deployment.version, "<0.25")
    unsaid = flags.get("kv-cache-dtype", "auto") == "auto"
    kept = flags.get("enable-prefix-caching") and model.states and not all_in(deployment, ALIGNED_ON_REQUEST)
    mode = flags.get("mamba-cache-mode", "none")
    some = model.model_type in _ONE_WINDOW and len({cache.window > 0 for cache, _ in model.attentions}) > 1
    checks = {
        f"windows of some layers of {model.model_type}: vLLM has one for all, or none": some,
        f"kv_lora_rank of {model.model_type}: vLLM has no latent cache for it": latents
        and model.model_type not in LATENTS,
        "index_topk before 0.25: the bytes of --kv-cache-dtype auto are unknown; give a value": sparse
        and unsaid
        and old,
        "--enable-prefix-caching before 0.20, for a model with recurrent layers": kept,
        f"--mamba-cache-mode {mode}": mode not in ("none", "align"),
        "--kv-cache-dtype-skip-layers": flags.get("kv-cache-dtype-skip-layers"),
    }
    return next((name for name, found in checks.items() if found), "")
