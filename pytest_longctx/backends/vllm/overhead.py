"""
GPU memory of vLLM beside weights and KV cache: profiling run, memory outside PyTorch, and the estimate for graphs.

The profiling run has ``max_num_batched_tokens`` tokens and samples for ``max_num_seqs`` requests
(``v1/worker/gpu_model_runner.py``, ``profile_run``). Its peak is the sampler's peak or the peak of the widest feed-forward
layer, whichever is larger. The buffers of fused experts stay allocated. The terms are counted from the sources. They are
checked against 59 boots of 0.19.0 on H100s that llm-d-planner published (pull request 205; ``docs/results/planner``), boots of
older versions in its ``empirical-vllm-memory-results.md``, and five of 0.25.1 on H200s. An interval covers larger differences
between versions or kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from pytest_longctx.deployments.deployment import FlagValue
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.caches import Latent
from pytest_longctx.shapes.model import ModelShape
from pytest_longctx.shapes.tensors import Tensor
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

LEAN_SAMPLER = "0.17"
"""Since this version, the sampler filters in a kernel and does not sort: 5.64 GiB became 2.23 (Qwen3-14B)."""
SORTING_BYTES = 38
"""Bytes per logit of a sampler that sorts: 4.76 GiB of Llama-3.1-8B, 5.64 of Qwen3-32B, 7.38 of gpt-oss-20b."""
LEAN_BYTES = {1: 14, 2: 14, 4: 16}
"""
Bytes per logit since `LEAN_SAMPLER`, by the bytes of one value of the model.

They are the logit itself, an FP32 copy, its probability, and the random noise for sampling.
"""
FILTER_ROWS = 132
"""Rows of FP32 logits that the filter keeps: one per multiprocessor (132 on an H100 or H200)."""
FIXED_BYTES = 0.04 * GiB
"""Bytes of input ids, positions, block tables and other buffers of the profiling run."""
FLASHINFER_SAMPLES = "0.12"
"""
First version that does not use FlashInfer's sampler when installed, as in the published images. That sampler does not
sort.

Mistral-Small took 2.12 GiB in the image of 0.11.0; gpt-oss-120b without FlashInfer took 7.4 (vllm#27508).
"""

WARM_SAMPLER = "0.33"
"""
Since this version, the second runner's trial also requests penalties, which use FP32 logits (``_dummy_sampler_run``).
"""
BUFFERS_COUNTED = "0.27"
"""
Since this version, buffers that stay allocated may be subtracted from the pool (``total_consumed`` in
``utils/mem_utils.py``).

Before, only the peak above them and the weights were subtracted. Seven boots of 0.33 on an H200 counted the buffers,
one of 0.31 on an H100 did not.
"""

GRAPHS_COUNTED = "0.20"
"""
Since this version, the estimated size of the graphs is subtracted from the pool.

The setting is ``VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS``. Its message names 0.21, and public logs of 0.20.0 have it.
"""
GRAPHS_USUAL = 51
"""Number of graph sizes in the boots whose estimates `GRAPH_BYTES_PER_LAYER` summarises."""
GRAPH_BYTES_PER_LAYER = (0.014 * GiB, 0.024 * GiB, 0.055 * GiB)
"""
Least, usual and most of the estimates for `GRAPHS_USUAL` graphs on Hopper: 0.49 to 1.92 GiB over 16 to 80 layers.

The estimates of the second runner are smaller: 0.49 GiB for Llama-3.1-8B on an H100 (0.31), 0.40 for Qwen2.5-7B on an H200
(0.31).
"""
SECOND_GRAPH_BYTES_PER_LAYER = 0.0155 * GiB
"""The usual estimate of the second runner on Hopper."""
OTHER_GRAPH_BYTES_PER_LAYER = (0.0, 0.032 * GiB, 0.055 * GiB)
"""
Estimates on other devices, whose kernels keep more. If graphs were not measured, 0 was subtracted.

Public logs: 2.73 GiB of 80 layers (L40S, 0.19), 1.94 of 64 (0.26), 1.19 of 40 (L40S, 0.28), 2.1 of 64 and 1.3 of 32
(RTX PRO 6000, 0.27), 0.58 of 28 (16 GB, 0.26), 0 of 24 (24 GB, 0.27).
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs to the memory estimate of vLLM's profiling run."""

    max_num_seqs: int
    max_batched_tokens: int
    tensor_parallel: int = 1
    value_bytes: int = 2
    """Bytes of one value of the model."""
    eager: bool = False
    version: str | None = None
    linked: bool = True
    """Whether NVLink connects the server's devices. The all-reduce that is fused with a norm then has its own buffers."""
    graphs: int = GRAPHS_USUAL
    """Number of sizes of CUDA graphs."""
    flashinfer: bool = False
    """Whether FlashInfer is installed, which versions before `FLASHINFER_SAMPLES` then use to sample."""
    second_runner: bool | None = False
    """Whether the model runner is the second one, which samples from the model's own logits; None if unknown."""
    hopper: bool | None = True
    """Whether the device is a Hopper; None if unknown."""
    context: int | None = None
    """Tokens of the longest context; None if unknown. A long one is then assumed."""
    shared: bool = False
    """Whether device and host share their memory (GB10), so that growth of the host's use also counts."""

    @property
    def sorts(self) -> bool:
        """Whether the sampler of the profiling run sorts its logits."""
        return self.before(LEAN_SAMPLER) and not (self.flashinfer and self.before(FLASHINFER_SAMPLES))

    def before(self, version: str) -> bool:
        """Return whether the engine of the profiling run may be older than *version*. No version means the newest."""
        return self.version is not None and overlap(self.version, f"<{version}")


@dataclass(frozen=True, slots=True)
class Range:
    """An expected size with its bounds, in bytes."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


def other_bytes(shape: Shape, trial: Trial) -> Range:
    """Return the bytes outside weights and KV cache on one device, which vLLM subtracts from the pool."""
    parts = (
        activation_bytes(shape, trial),
        not_torch_bytes(trial),
        penalty_bytes(shape, trial),
        graph_bytes(shape, trial),
    )
    return sum(parts, Range(0, 0, 0))


def activation_bytes(shape: Shape, trial: Trial) -> Range:
    """Return the peak of PyTorch's memory in the profiling run, without the weights."""
    tokens, width = trial.max_batched_tokens, trial.value_bytes
    experts = _expert_buffers(shape.model, trial)
    peaks = [_peak(shape, trial, each, experts) for each in _logit_bytes(trial)]
    towers = tokens * shape.hidden * width if shape.model is not None and shape.model.vision_parameters != 0 else 0
    slack = towers and TOWER_SLACK_BYTES * max(1.0, tokens / TOWER_SLACK_TOKENS)
    packed = shape.model is not None and shape.model.scheme.name not in ("", "fp8", "compressed-tensors")
    # Kernels of packed experts have other buffers: of gpt-oss-20b none were seen.
    usual = 0 if packed else experts
    least = peaks[0] * (SORTED_SHARE[trial.before("0.11")] if trial.sorts else 1.0)
    return Range(least + usual, peaks[0] + usual + towers, peaks[-1] + experts + towers + slack)


SORTED_SHARE = {False: 0.93, True: 0.84}
"""Least share of the sampler's sorted peak in public logs: of 0.15, and of versions before 0.11."""


TOWER_SLACK_BYTES = 1.4 * GiB
"""
Memory that the profiling run of a vision encoder may add, for each `TOWER_SLACK_TOKENS` of a batch.

Logged: 0 to 0.2 GiB in six boots, 1.1 of Qwen3-VL-8B, 1.3 of Qwen3-VL-30B, whose pictures have any size. Larger batches
take more.
"""
TOWER_SLACK_TOKENS = 8192


def _peak(shape: Shape, trial: Trial, logit_bytes: float, experts: float) -> float:
    """Return the peak bytes of vLLM's profiling run: the larger of the sampler's peak and the widest layer's peak."""
    tokens, width = trial.max_batched_tokens, trial.value_bytes
    requests = min(trial.max_num_seqs, tokens)
    hidden = (tokens + requests) * shape.hidden * width
    # The input, its norm, the residual and the output; of experts, what they and the shared one make, too.
    copies = 6 if experts else 4
    forward = tokens * width * (_feed_forward(shape.model, trial.tensor_parallel) + copies * shape.hidden)
    sampled = hidden + requests * shape.vocabulary * logit_bytes
    return FIXED_BYTES + max(sampled, forward, _latent_attention(shape, trial))


PREFILL_ROWS = 65_536
"""
Most cached tokens whose latents vLLM's MLA expands to keys and values at once (``chunked_prefill_workspace_size``).
"""


def _latent_attention(shape: Shape, trial: Trial) -> float:
    """
    Return the bytes of the widest layer with latent attention in vLLM's profiling run; 0 without such a layer.

    It allocates the keys and values of `PREFILL_ROWS` cached tokens, the queries, and three copies of the hidden values
    (``MLAAttention.forward`` without metadata, in 0.19 to 0.33).
    """
    latents = [
        cache
        for cache, _ in (shape.model.attentions if shape.model is not None else ())
        if isinstance(cache, Latent) and cache.rate == 1 and not cache.attended
    ]
    rows = min(PREFILL_ROWS, 8 * (trial.context or PREFILL_ROWS))
    tokens, width = trial.max_batched_tokens, trial.value_bytes
    of_layers = (
        rows * each.heads * (each.key_dim - each.rope_dim + each.value_dim) + tokens * each.heads * each.key_dim
        for each in latents
    )
    most = max(of_layers, default=0)
    return width * (most / trial.tensor_parallel + 3 * tokens * shape.hidden) if most else 0.0


def _logit_bytes(trial: Trial) -> tuple[float, ...]:
    """
    Return the bytes per logit in the sampler's profiling run for each possible model runner.

    The usual runner, which takes fewer bytes, comes first.
    """
    if trial.sorts:
        return (SORTING_BYTES,)
    first = LEAN_BYTES[trial.value_bytes] + 4 * FILTER_ROWS / max(1, trial.max_num_seqs)
    # No request of the second runner's trial asks for a temperature or a filter: its logits are gathered, and no more.
    second = trial.value_bytes * (1 + (trial.tensor_parallel > 1) / trial.tensor_parallel)
    second += 0 if trial.before(WARM_SAMPLER) else 4
    return {False: (first,), True: (second,), None: (second, first)}[trial.second_runner]


def _feed_forward(model: ModelShape | None, tensor_parallel: int) -> float:
    """
    Return the number of values per token in the widest dense feed-forward layer of the profiling run: both projections
    and their product.
    """
    rows: dict[str, list[int]] = {}
    for tensor in _matrices(model):
        if ".experts." not in tensor.name and tensor.name.endswith((".gate_proj", ".up_proj")):
            rows.setdefault(tensor.name.rpartition(".")[0], []).append(tensor.rows)
    return max((sum(sizes) + max(sizes) for sizes in rows.values()), default=0) / tensor_parallel


def _expert_buffers(model: ModelShape | None, trial: Trial) -> float:
    """
    Return the bytes of the two buffers of fused experts, which stay allocated after vLLM's profiling run.

    For every chosen expert of every token, one buffer has the larger of the product and the output, the other the larger
    of both projections together and the output (``fused_moe.py``, ``TritonExperts.workspace_shapes``).
    """
    largest = 0.0
    for tensor in _matrices(model):
        if tensor.name.endswith(".experts.down_proj"):
            hidden, width, chosen = tensor.rows, tensor.columns / trial.tensor_parallel, tensor.active or tensor.copies
            largest = max(largest, chosen * (max(width, hidden) + max(2 * width, hidden)))
    return largest * trial.max_batched_tokens * trial.value_bytes


def _matrices(model: ModelShape | None) -> frozenset[Tensor]:
    """Return the different weight matrices in the layers of *model*."""
    stack = model.stack if model is not None else ()
    return frozenset(tensor for layer in stack for tensor in layer.tensors if tensor.columns)


def padding_bytes(model: ModelShape, tensor_parallel: int) -> tuple[float, float]:
    """Return the least and the most bytes of padding that vLLM adds to MXFP4 experts of one device."""
    if model.scheme.name != "mxfp4":
        return 0.0, 0.0
    least = most = 0.0
    for layer in model.stack:
        for tensor in layer.tensors:
            if tensor.name.endswith(".experts.down_proj"):
                hidden, width = tensor.rows, tensor.columns / tensor_parallel
                three = 3 * tensor.copies * MXFP4_BITS / 8
                most += three * (_up(hidden, 256) * _up(width, 128) - hidden * width)
                least += three * (hidden * _up(width, 256) - hidden * width)
    return least, most


MXFP4_BITS = 4.25
"""Bits of one MXFP4 value, including the value's share of an 8-bit scale for 32 values."""


def _up(number: float, multiple: int) -> int:
    return ceil(number / multiple) * multiple


def latent_copies_bytes(model: ModelShape, tensor_parallel: int) -> float:
    """Return the bytes of the two parts of ``kv_b_proj`` that vLLM's MLA also keeps in BF16 on one device."""
    values = sum(
        count * cache.heads * (cache.key_dim - cache.rope_dim + cache.value_dim) * cache.rank
        for cache, count in model.attentions
        if isinstance(cache, Latent) and cache.rate == 1
    )
    return 2 * values / tensor_parallel


def not_torch_bytes(trial: Trial) -> Range:
    """
    Return the growth of memory outside PyTorch on one device: libraries, communication.

    Versions before 0.11, whose sources were not read, may use up to `UNREAD_BYTES` more.

    Logged: on one device 0.13 GiB up to 0.17, and 0.24 to 0.27 since (0.46 of one family). On two and more 0.55 up to
    0.16 and without compilation, and 2.06 to 2.21 since (an all-reduce fused with a norm), 0.07 in a pipeline.
    """
    more = Range(0, 0, UNREAD_BYTES if trial.before("0.11") else 0)
    if trial.shared:
        more += SHARED_BYTES
    if trial.tensor_parallel == 1:
        least, usual = (0.0, 0.13) if trial.before("0.18") else (0.07, 0.25)
        return more + Range(least * GiB, usual * GiB, 0.5 * GiB)
    if trial.eager or trial.before(LEAN_SAMPLER):
        return more + Range(0.2 * GiB, 0.55 * GiB, 0.8 * GiB)
    usual = 2.08 + 0.06 * (trial.tensor_parallel > 2)
    return more + Range(0.5 * GiB if trial.linked else 0.2 * GiB, (usual if trial.linked else 0.6) * GiB, 2.5 * GiB)


def penalty_bytes(shape: Shape, trial: Trial) -> Range:
    """
    Return the bytes of the second runner's token counts: for each request, an integer and a bit per word of the
    vocabulary (``v1/worker/gpu/sample/penalties.py``).
    """
    if trial.second_runner is False or trial.before(BUFFERS_COUNTED):
        return Range(0, 0, 0)
    size = trial.max_num_seqs * shape.vocabulary * (4 + 1 / 8)
    certain = trial.second_runner and not trial.before(WARM_SAMPLER)
    return Range(size if certain else 0, size if certain else 0, size)


UNREAD_BYTES = 1.2 * GiB
"""Memory that versions before 0.11 used beyond the terms of later ones: 1.0 GiB (0.9.2, four H100)."""
SHARED_BYTES = Range(0.0, 0.9 * GiB, 3 * GiB)
"""Growth in bytes of the host's memory during a boot on a device that shares it: 0.8 and 1.1 GiB in two boots on a GB10."""


def graph_bytes(shape: Shape, trial: Trial) -> Range:
    """
    Return the estimate for CUDA graphs that vLLM subtracts from the pool. Before `GRAPHS_COUNTED`, graphs use the
    remaining memory.
    """
    if trial.eager or trial.before(GRAPHS_COUNTED):
        return Range(0, 0, 0)
    layers = shape.model.layers if shape.model is not None else shape.layers
    low, usual, high = GRAPH_BYTES_PER_LAYER if trial.hopper is not False else OTHER_GRAPH_BYTES_PER_LAYER
    if trial.hopper and trial.second_runner is not False:
        usual = SECOND_GRAPH_BYTES_PER_LAYER
    least = low if trial.hopper else 0.0
    return Range(*(layers * each * trial.graphs / GRAPHS_USUAL for each in (least, usual, high)))


def graph_sizes(max_num_seqs: int, max_batched_tokens: int, largest: int = 512) -> int:
    """
    Return the number of CUDA graph sizes that vLLM captures up to *largest* tokens: 1, 2, 4, by 8 below 256, by 16
    above.

    >>> graph_sizes(1024, 8192), graph_sizes(8, 8192), graph_sizes(1024, 8192, 1024)
    (51, 5, 83)
    """
    most = min(2 * max_num_seqs, largest, max_batched_tokens)
    return sum(size <= most for size in (1, 2, 4)) + min(most, 255) // 8 + max(0, (most - 256) // 16 + 1)


def offloaded_bytes(flags: Mapping[str, FlagValue], weights: float) -> float:
    """
    Return the bytes of weights that ``--cpu-offload-gb`` moves off each device. The flag counts GiB
    (``model_executor/offloader``).
    """
    value = flags.get("cpu-offload-gb", 0)
    asked = (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**20 else 0.0
    )
    return min(asked * GiB, weights)
