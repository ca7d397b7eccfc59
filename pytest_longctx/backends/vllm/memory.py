"""
vLLM's memory: the pool of KV-cache blocks, and everything else that decides whether a long context boots.

The pool follows ``v1/core/kv_cache_utils.py`` (0.11.0 to 0.33.0) and reproduces the logged capacity of real boots to
the last digit. `pytest_longctx.backends.vllm.pages` computes its blocks, `pytest_longctx.backends.vllm.overhead` all
memory beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

from pytest_longctx.backends.vllm import overhead, pages, speculative
from pytest_longctx.backends.vllm.kv_dtypes import PLAIN
from pytest_longctx.backends.vllm.overhead import Range, Trial
from pytest_longctx.backends.vllm.pages import Grouping, Layout
from pytest_longctx.backends.vllm.speculative import NO_DRAFT, Draft
from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.deployment import FlagValue
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.observation import Outcome
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

MEASURED_FROM_BYTES = 120 * GiB
"""Smallest device memory in bytes for which `OUTSIDE_BYTES` holds, which was measured on H200s of 139.8 GiB."""

SAMPLER_LOGITS_BYTES = 4
"""Bytes per logit. The sampler works on FP32 copies."""

HOST_OTHER_BYTES = 2.2 * GiB
"""Bytes of host memory of a worker beside the worker's tables; see `HOST_COPIES`."""

HOST_COPIES = 1.8
"""
Number of copies of the worker's tables that a worker holds in host memory.

From two boots with four workers (vLLM 0.25.1): the host used 96 GiB with tables of 12.0 GiB each, and 12 GiB with
tables of 0.45 GiB. With tables of 57.2 GiB, the kernel killed eight workers at about 79 GB each, before the tables were
complete.
"""

OUTSIDE_BYTES = 7.5 * GiB
"""
Memory outside the engine's share that a large device needs, for CUDA graphs, NCCL and a sampler that sorts.

It is an interval, not a formula. With 7.0 GiB (utilisation 0.95 on an H200, vLLM 0.12.0, tensor parallel 8), the
sampler's warm-up ran out of memory; with 14.0 GiB (0.90) it did not. Boots of 0.19 on H100s served with 4.0 GiB (0.95),
because nothing is sorted since 0.17.
"""


def eager_other_bytes(shape: Shape, max_num_seqs: int, max_batched_tokens: int, tensor_parallel: int = 1) -> float:
    """
    Return the bytes that the profiling run of vLLM 0.25 uses on one device beside the weights, without CUDA graphs.

    From logs of 0.25.1 on H200: 3.53 GiB (12 of Scout's layers, one device), 3.62 (all of them, four devices), 1.28
    (the same, 8 requests), 3.67 and 3.63 (eight devices, two dtypes).
    """
    trial = Trial(max_num_seqs, max_batched_tokens, tensor_parallel, eager=True, version="==0.25.1")
    return overhead.other_bytes(shape, trial).expected


NEW_GROUP_RATIO = 1.5
"""
Ratio of the largest layer count to the smallest from which groups have the smallest count: 0.25 and later.

See `Pool.group_layers`; source: ``_get_kv_cache_groups_uniform_page_size``.
"""


def group_ratio(version: str | None) -> float:
    """
    Return the `NEW_GROUP_RATIO` of the oldest engine in a range of versions.

    Groups of 0.11 always have the smallest layer count; 0.12 allows a quarter more. The sources of 0.13 to 0.24 were not
    read; 1.5 is assumed for them.

    >>> group_ratio("==0.11.0"), group_ratio("==0.12.0"), group_ratio(">=0.25"), group_ratio(None)
    (1.0, 1.25, 1.5, 1.5)
    """
    if version is None:
        return NEW_GROUP_RATIO
    return 1.0 if overlap(version, "<0.12") else 1.25 if overlap(version, "<0.13") else NEW_GROUP_RATIO


@dataclass(frozen=True)
class Pool:
    """The KV cache of one device, as blocks that all layers share. Raises `pages.UnlaidError` if the pages are unknown."""

    shape: Shape
    available_bytes: float
    """Memory left for the KV cache on one device."""
    value_bytes: int = 2
    tensor_parallel: int = 1
    block_size: int = 16
    max_batched_tokens: int = 8192
    """Tokens in computation: the tokens of one batch, or of all batches that are scheduled at once."""
    hybrid: bool = True
    """Whether layers with a window keep only that window (hybrid KV-cache manager)."""
    group_ratio: float = NEW_GROUP_RATIO
    """See `group_ratio`."""
    layout: Layout | None = None
    """Layout of the pages; None: by the fields above."""
    draft: Draft = NO_DRAFT
    """Weights and caches of the draft model; `NO_DRAFT` without speculative decoding."""

    @cached_property
    def grouping(self) -> Grouping:
        """The groups of layers in the KV pool."""
        size = PLAIN[self.value_bytes]
        plain = Layout(
            keys=size,
            latents=size,
            conv_bytes=self.value_bytes,
            tensor_parallel=self.tensor_parallel,
            block_size=self.block_size,
            alignment=self.block_size,
            hybrid=self.hybrid,
            group_ratio=self.group_ratio,
        )
        return pages.arrange(speculative.with_draft(pages.caches(self.shape), self.draft), self.layout or plain)

    @property
    def group_layers(self) -> int:
        """
        Layers per group in the KV pool. Layers of one kind are divided into equal groups, so that all blocks have one
        size.

        The size is the layer count of the rarest kind, or of the most common kind if that is less than *group_ratio*
        times as large.
        """
        return self.grouping.group_layers

    @property
    def groups(self) -> int:
        """Number of groups of layers in the KV pool."""
        return self.grouping.groups

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the KV pool on one device: its tokens in one group of layers."""
        return self.grouping.block_bytes

    @property
    def blocks(self) -> int:
        """Number of blocks in the KV pool."""
        return int(self.available_bytes // self.block_bytes)

    def blocks_for(self, tokens: int) -> int:
        """Return the most blocks of the KV pool that one request of *tokens* needs at a time."""
        return self.grouping.blocks_for(tokens, self.max_batched_tokens)

    def bytes_for(self, tokens: int) -> int:
        """
        Return the bytes of the KV pool on one device that one request of *tokens* needs.

        If vLLM refuses to boot, its message gives this size as "needed".
        """
        return self.blocks_for(tokens) * self.block_bytes

    def concurrency(self, tokens: int) -> float:
        """Return the number of requests of *tokens* that fit into the KV pool at once, as logged."""
        return self.blocks / self.blocks_for(tokens)

    def longest(self) -> int:
        """
        Return the longest request in tokens that fits into the KV pool, of which the engine reserves one block; 0 if
        none fits.

        Measured: 4,163,456 for the tiny model with 1 GiB (vLLM 0.32.0 on CPU, blocks of 128, batches of 2,048). If
        every layer keeps a state or a window, only the model's positions limit the length.
        """
        size = self.grouping.block_tokens or 1
        whole = max((kind.covered for kind in self.grouping.kinds if kind.span == "full"), default=0)
        low, high = 0, (self.blocks + 1) * whole if whole else self.shape.rope_positions or UNBOUNDED_TOKENS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks_for(middle) <= self.blocks - 1 else (low, middle - 1)
        return low // size * size


UNBOUNDED_TOKENS = 2**31 - 1
"""A length that stands for any length."""


def host_bytes_per_worker(max_num_seqs: int, max_model_len: int, block_size: int, groups: int) -> int:
    """
    Return the bytes of one worker's tables in host memory: token ids and flags of every slot at full length, and block
    tables.

    1,024 slots of 10M tokens take 57 GiB in each worker (vLLM 0.25.1).
    """
    tokens = max_num_seqs * max_model_len * (4 + 1)
    tables = max_num_seqs * ceil(max_model_len / block_size) * 4 * groups
    return tokens + tables


def sampler_copy_bytes(max_num_seqs: int, shape: Shape) -> int:
    """
    Return the bytes of one FP32 copy of a full batch's logits. Top-p sorting keeps several copies, one of them of
    8-byte indices.
    """
    return max_num_seqs * shape.vocabulary * SAMPLER_LOGITS_BYTES


@dataclass(frozen=True)
class Beside:
    """The parts of a server beside its model: a draft model, adapter slots, and flags that fix the pool or move weights."""

    draft: Draft = NO_DRAFT
    adapters: float = 0.0
    """Bytes of the slots for adapters."""
    flags: Mapping[str, FlagValue] = field(default_factory=dict)


def predict(
    shape: Shape,
    device_bytes: float,
    max_model_len: int,
    *,
    utilisation: float = 0.9,
    value_bytes: int = 2,
    weight_value_bytes: float = 2,
    tensor_parallel: int = 1,
    block_size: int = 16,
    max_batched_tokens: int = 8192,
    max_num_seqs: int = 1024,
    hybrid: bool = True,
    trial: Trial | None = None,
    stages: int = 1,
    ratio: float = NEW_GROUP_RATIO,
    layout: Layout | None = None,
    in_flight: int | None = None,
    beside: Beside = Beside(),
) -> Prediction:
    """
    Return the predicted result of a vLLM boot on devices of *device_bytes* each. *shape* is the shape of one of its
    *stages*.

    *in_flight* is the number of tokens that may be computed at once, if more than one batch. The outcome is in doubt if
    the bounds of the memory beside weights and cache differ in outcome. Raises `pages.UnlaidError`.
    """
    weights = weight_range(shape, weight_value_bytes, tensor_parallel)
    kept = weights.expected - overhead.offloaded_bytes(beside.flags, weights.expected)
    weights = weights + beside.draft.weights + Range(*(3 * [beside.adapters + kept - weights.expected]))
    sizes = overhead.graph_sizes(max_num_seqs, max_batched_tokens)
    trial = trial or Trial(max_num_seqs, max_batched_tokens, tensor_parallel, graphs=sizes)
    other = overhead.other_bytes(shape, trial)
    available = available_bytes(device_bytes, utilisation, weights.expected, other.expected)
    parts = (value_bytes, tensor_parallel, block_size, in_flight or max_batched_tokens)
    pool = Pool(shape, available, *parts, hybrid, ratio, layout, beside.draft)
    share = device_bytes * utilisation
    left = Range(share - (weights + other).high, available, share - (weights + other).low)
    fixed = pages.fixed_pool_bytes(beside.flags, pool.block_bytes)
    if fixed is not None:
        pool, left = replace(pool, available_bytes=fixed), Range(fixed, fixed, fixed)
    terms = (
        _bounded("weights", weights),
        _bounded("other", other),
        _bounded("KV pool", left),
        Term("KV cache of one request", pool.bytes_for(max_model_len)),
        *_host_terms(tensor_parallel * stages, max_num_seqs, max_model_len, block_size, pool.groups),
    )
    seen = Prediction("serves", terms, pool.longest(), pool.concurrency(max_model_len), host_cure="--max-num-seqs 8")
    seen = replace(seen, doubt=_doubt(pool, max_model_len, left.low, left.high))
    taken = weights.expected + other.expected + (fixed or 0.0)
    if (fixed is not None and taken > device_bytes) or not pool.blocks:
        return _without_room(seen, pool)
    if trial.sorts and device_bytes - share < OUTSIDE_BYTES and device_bytes >= MEASURED_FROM_BYTES:
        copy = Term("sampler warm-up, one copy of the logits", sampler_copy_bytes(max_num_seqs, shape))
        cure = "--gpu-memory-utilization 0.90"
        return Prediction(
            "runs out of memory", terms, seen.longest_tokens, seen.concurrency, copy, copy.size_bytes, cure
        )
    return _held(seen, pool, trial, max_model_len)


def _without_room(seen: Prediction, pool: Pool) -> Prediction:
    """Return the prediction for weights and *pool* that exceed the device, or for weights that leave no block to the pool."""
    weights, _, kept, *_ = seen.terms
    larger = kept if pool.blocks and kept.size_bytes > weights.size_bytes else weights
    cure = "a smaller pool" if larger is kept else "--tensor-parallel-size of twice as many devices"
    fits, at_once = (seen.longest_tokens, seen.concurrency) if pool.blocks else (0, None)
    return Prediction("runs out of memory", seen.terms, fits, at_once, larger, None, cure, doubt=seen.doubt)


SHOWN_FROM_BYTES = 0.5 * GiB
"""A smaller spread is not shown."""


def _bounded(name: str, size: Range) -> Term:
    """Return a memory term of a prediction, with its bounds if they differ enough to be shown."""
    low, high = max(0.0, size.low), max(0.0, size.high)
    return Term(name, size.expected, bounds_bytes=(low, high) if high - low > SHOWN_FROM_BYTES else None)


def _host_terms(workers: int, max_num_seqs: int, max_model_len: int, block_size: int, groups: int) -> tuple[Term, Term]:
    """Return the terms of host memory: the tables of all workers, and the workers' own memory."""
    tables = workers * HOST_COPIES * host_bytes_per_worker(max_num_seqs, max_model_len, block_size, groups)
    own = Term(f"{workers} workers' own", workers * HOST_OTHER_BYTES, host=True)
    return Term(f"tables of {workers} workers", tables, host=True), own


def _held(seen: Prediction, pool: Pool, trial: Trial, max_model_len: int) -> Prediction:
    """Return the prediction *seen*, changed if the KV pool cannot hold one request, or the states of all requests."""
    if pool.concurrency(max_model_len) < 1:
        # The check of 0.12 counts what each layer keeps; without the hybrid manager the pool then keeps every token everywhere.
        kept = replace(pool, hybrid=True, layout=pool.layout and replace(pool.layout, hybrid=True))
        would_pass = kept.concurrency(max_model_len) >= 1 and trial.before("0.13")
        cure = "the hybrid KV-cache manager" if would_pass else f"--max-model-len {seen.longest_tokens}"
        outcome: Outcome = "overcommits" if would_pass else "refuses"
        return replace(seen, outcome=outcome, culprit=seen.terms[3], cure=cure, host_cure="")
    checked = pool.grouping.has_states and not trial.eager and not trial.before(STATES_CHECKED)
    if checked and trial.max_num_seqs > pool.blocks:
        name = f"max_num_seqs ({trial.max_num_seqs:,}) exceeds available Mamba cache blocks ({pool.blocks:,})"
        cure = f"--max-num-seqs {2 ** (pool.blocks.bit_length() - 1)}"
        return replace(seen, outcome="refuses", culprit=Term(name, pool.block_bytes), cure=cure, host_cure="", doubt="")
    return seen


STATES_CHECKED = "0.20"
"""Since this version, full CUDA graphs need a block for the state of each request (public logs; source of 0.32.0)."""


def weight_range(shape: Shape, value_bytes: float, tensor_parallel: int) -> Range:
    """
    Return the bytes of the weights on one device, with the copies that the engine makes and the padding of its kernels.

    MXFP4 experts are padded (``fused_moe/oracle/mxfp4.py``: Marlin and TensorRT-LLM to 128 and 256, others less). For
    gpt-oss-120b with 60.77 GiB, 65.97 and 64.38 GiB were logged. MLA keeps two BF16 matrices beside ``kv_b_proj``
    (``mla_attention.py``).
    """
    plain = shape.weight_bytes(value_bytes, tensor_parallel, rope_value_bytes=2)
    if shape.model is None:
        return Range(plain, plain, plain)
    low, high = overhead.padding_bytes(shape.model, tensor_parallel)
    # Towers are divided as well, which `Shape.weight_bytes` does not do (0.19, Llama 4 and Mistral on 2 and 4 devices).
    towers = (shape.whole.vision_parameters or 0) * 2 if shape.whole is not None else 0
    copies = overhead.latent_copies_bytes(shape.model, tensor_parallel) - towers * (1 - 1 / tensor_parallel)
    return Range(plain + copies + low, plain + copies + high, plain + copies + high)


def _doubt(pool: Pool, max_model_len: int, least: float, most: float) -> str:
    """Return the doubt about a boot whose KV *pool* may have *least* to *most* bytes; empty if both have one outcome."""
    least, most = max(0.0, least), max(0.0, most)
    fits = {replace(pool, available_bytes=size).concurrency(max_model_len) >= 1 for size in (least, most)}
    if len(fits) == 1:
        return ""
    asked, seen = pool.bytes_for(max_model_len) / GiB, pool.available_bytes / GiB
    return (
        f"one request needs {asked:.2f} GiB, and the KV pool has {seen:.2f} GiB ({least / GiB:.2f} to {most / GiB:.2f}): "
        "the engine's other memory varies by that much between kernels and versions"
    )


def predict_pool(pool: Pool, max_model_len: int) -> Prediction:
    """Return the prediction of a boot whose KV cache size is set explicitly. Other memory is unknown."""
    one_request = Term("KV cache of one request", pool.bytes_for(max_model_len))
    terms = (Term("KV pool", pool.available_bytes), one_request)
    longest, concurrency = pool.longest(), pool.concurrency(max_model_len)
    if pool.blocks_for(max_model_len) >= pool.blocks:  # the engine reserves one block
        return Prediction("refuses", terms, longest, concurrency, one_request, None, f"--max-model-len {longest}")
    return Prediction("serves", terms, longest, concurrency)


def available_bytes(device_bytes: float, utilisation: float, weight_bytes: float, other_bytes: float) -> float:
    """Return the bytes of a device for the KV pool: the device's share, minus weights, activations and graphs."""
    return max(0.0, device_bytes * utilisation - weight_bytes - other_bytes)
