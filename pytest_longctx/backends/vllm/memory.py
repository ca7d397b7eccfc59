"""
vLLM's memory: the pool of KV-cache blocks, and everything else that decides whether a long context boots.

The pool follows ``v1/core/kv_cache_utils.py`` (0.12.0 to 0.33.0) and reproduces the logged capacity of real boots to the last
digit. Each constant names the boots it was measured with.
"""

from dataclasses import dataclass, replace
from math import ceil

from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.toml import overlap
from pytest_longctx.units import GiB

MEASURED_FROM_BYTES = 120 * GiB
"""The devices on which `OTHER_BYTES` and `OUTSIDE_BYTES` were measured are larger: H200s, of 139.8 GiB."""

DOUBT_BYTES = 5 * GiB
"""
How far off `OTHER_BYTES` may be on a smaller device.

From two public logs of H100s: Llama-3.1-8B had 3.7 GiB more for its cache than predicted, gpt-oss-120b (0.11) 4.4 GiB less.
"""

SAMPLER_LOGITS_BYTES = 4
"""Bytes per logit: the sampler works on FP32 copies."""

OTHER_BYTES = 8.3 * GiB
"""Activations, libraries and CUDA graphs: 0.90 x 139.8 - 27.81 - 89.71 GiB on 8 x H200 with vLLM 0.12.0."""

HOST_OTHER_BYTES = 2.2 * GiB
"""Host memory of a worker beside its tables; see `HOST_COPIES`."""

HOST_COPIES = 1.8
"""
Number of copies of its tables that a worker holds in host memory.

From two boots with four workers (vLLM 0.25.1): the host used 96 GiB with tables of 12.0 GiB each, and 12 GiB with tables of 0.45
GiB. The kernel killed eight workers with tables of 57.2 GiB at about 79 GB each, before the tables were complete.
"""

OUTSIDE_BYTES = 7.5 * GiB
"""
Memory that must remain outside the engine's share, for CUDA graphs, NCCL and allocator overhead.

An interval, not a formula: with 7.0 GiB (utilisation 0.95 on an H200, vLLM 0.12.0, tensor parallel 8) the sampler's warm-up ran
out of memory; with 14.0 GiB (0.90) it did not.
"""


def eager_other_bytes(shape: Shape, max_num_seqs: int, max_batched_tokens: int) -> float:
    """
    Bytes that the profiling run of 0.25 takes beside the weights on one device, without CUDA graphs.

    Fitted to boots of 0.25.1 on H200: 3.53 GiB (12 of Scout's layers, one device), 3.62 (all of them, four devices), 1.28 (the
    same, 8 requests), 3.67 and 3.63 (eight devices, two dtypes), 0.3 (small models). The sum of three copies of the sampler's
    logits, 25 bytes per hidden value of a full batch (for any number of devices), and 0.25 GiB.
    """
    logits = 3 * sampler_copy_bytes(max_num_seqs, shape)
    return 0.25 * GiB + logits + 25 * shape.hidden * max_batched_tokens


NEW_GROUP_RATIO = 1.5
"""
How much commoner a kind of layer must be to be cut into groups, in 0.25 and later
(``_get_kv_cache_groups_uniform_page_size``).
"""


def group_ratio(version: str | None) -> float:
    """
    The same in the oldest engine of a range of versions: 0.11 always takes the smallest count, 0.12 allows a quarter more.

    The sources of 0.13 to 0.24 were not read; 1.5 is taken for them.

    >>> group_ratio("==0.11.0"), group_ratio("==0.12.0"), group_ratio(">=0.25"), group_ratio(None)
    (1.0, 1.25, 1.5, 1.5)
    """
    if version is None:
        return NEW_GROUP_RATIO
    return 1.0 if overlap(version, "<0.12") else 1.25 if overlap(version, "<0.13") else NEW_GROUP_RATIO


@dataclass(frozen=True, slots=True)
class Pool:
    """The KV cache of one device, as blocks that all layers share."""

    shape: Shape
    available_bytes: float
    """Memory left for the KV cache on one device."""
    value_bytes: int = 2
    tensor_parallel: int = 1
    block_size: int = 16
    max_batched_tokens: int = 8192
    hybrid: bool = True
    """Whether layers with a window keep only that window (hybrid KV-cache manager)."""
    group_ratio: float = NEW_GROUP_RATIO
    """See `group_ratio`."""

    @property
    def group_layers(self) -> int:
        """
        Layers per group. Layers of one kind are split into groups of equal size, so that all blocks have one size.

        The size is the layer count of the rarest kind, or of the most common kind if less than *group_ratio* times as large.
        """
        counts = self._counts()
        return max(counts) if max(counts) < self.group_ratio * min(counts) else min(counts)

    def _counts(self) -> tuple[int, ...]:
        shape = self.shape
        kinds = (shape.full, shape.chunked, shape.sliding) if self.hybrid else (shape.layers,)
        return tuple(count for count in kinds if count)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return sum(ceil(count / self.group_layers) for count in self._counts())

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on one device: *block_size* tokens in one group of layers."""
        shape = self.shape
        heads = shape.kv_heads_per_device(self.tensor_parallel)
        return self.block_size * self.group_layers * 2 * heads * shape.head_dim * self.value_bytes

    @property
    def blocks(self) -> int:
        """Number of blocks that fit."""
        return int(self.available_bytes // self.block_bytes)

    def blocks_for(self, tokens: int) -> int:
        """Maximum number of blocks that one request of *tokens* needs at a time."""
        shape, size = self.shape, self.block_size
        if not self.hybrid:
            return ceil(tokens / size)
        whole = ceil(shape.full / self.group_layers) * ceil(tokens / size)
        chunk = min(shape.window + self.max_batched_tokens, tokens)
        chunked = ceil(shape.chunked / self.group_layers) * ceil(chunk / size)
        slid = min(shape.window - 1 + self.max_batched_tokens, tokens)
        sliding = ceil(shape.sliding / self.group_layers) * (ceil(slid / size) + 1)
        return whole + chunked + sliding

    def bytes_for(self, tokens: int) -> int:
        """Bytes on one device that one request of *tokens* needs; the "needed" size in a refusal at boot."""
        return self.blocks_for(tokens) * self.block_bytes

    def concurrency(self, tokens: int) -> float:
        """Number of requests of *tokens* that fit at once, as logged."""
        return self.blocks / self.blocks_for(tokens)

    def longest(self) -> int:
        """
        The longest request that fits, in tokens; 0 if none does. The engine reserves one block.

        Measured: 4,163,456 for the tiny model with 1 GiB (vLLM 0.32.0 on CPU, blocks of 128, batches of 2,048).
        """
        low, high = 0, (self.blocks + 1) * self.block_size
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks_for(middle) <= self.blocks - 1 else (low, middle - 1)
        return low // self.block_size * self.block_size


def host_bytes_per_worker(max_num_seqs: int, max_model_len: int, block_size: int, groups: int) -> int:
    """
    Bytes of host memory for one worker's tables: token ids and flags of every slot at full length, and every group's block table.

    1,024 slots of 10M tokens take 57 GiB in each worker (vLLM 0.25.1).
    """
    tokens = max_num_seqs * max_model_len * (4 + 1)
    tables = max_num_seqs * ceil(max_model_len / block_size) * 4 * groups
    return tokens + tables


def sampler_copy_bytes(max_num_seqs: int, shape: Shape) -> int:
    """Bytes of one FP32 copy of a full batch's logits; top-p sorting keeps several copies, one of them of 8-byte indices."""
    return max_num_seqs * shape.vocabulary * SAMPLER_LOGITS_BYTES


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
    other_bytes: float = OTHER_BYTES,
    stages: int = 1,
    ratio: float = NEW_GROUP_RATIO,
) -> Prediction:
    """
    What a boot with these flags comes to, on devices of *device_bytes* each; *shape* is that of one of its *stages*.

    On a device on which nothing was measured the outcome is in doubt where `DOUBT_BYTES` would turn it.
    """
    weights = shape.weight_bytes(weight_value_bytes, tensor_parallel, rope_value_bytes=2)
    available = available_bytes(device_bytes, utilisation, weights, other_bytes)
    parts = (value_bytes, tensor_parallel, block_size, max_batched_tokens)
    pool = Pool(shape, available, *parts, hybrid, ratio)
    one_request = Term("KV cache of one request", pool.bytes_for(max_model_len))
    workers = tensor_parallel * stages
    tables = workers * HOST_COPIES * host_bytes_per_worker(max_num_seqs, max_model_len, block_size, pool.groups)
    host = (
        Term(f"tables of {workers} workers", tables, host=True),
        Term(f"{workers} workers' own", workers * HOST_OTHER_BYTES, host=True),
    )
    terms = (Term("weights", weights), Term("other", other_bytes), Term("KV pool", available), one_request, *host)
    longest, concurrency = pool.longest(), pool.concurrency(max_model_len)
    doubt = "" if device_bytes >= MEASURED_FROM_BYTES else _doubt(pool, max_model_len)
    if not pool.blocks:
        cure = "--tensor-parallel-size of twice as many devices"
        return Prediction("runs out of memory", terms, 0, None, terms[0], None, cure, doubt=doubt)
    if device_bytes * (1 - utilisation) < OUTSIDE_BYTES and device_bytes >= MEASURED_FROM_BYTES:
        copy = Term("sampler warm-up, one copy of the logits", sampler_copy_bytes(max_num_seqs, shape))
        cure = "--gpu-memory-utilization 0.90"
        return Prediction("runs out of memory", terms, longest, concurrency, copy, copy.size_bytes, cure)
    if concurrency < 1:
        # The check at boot counts what each layer keeps; without the hybrid manager the pool then keeps every token in all
        # layers.
        would_pass = Pool(shape, available, *parts, hybrid=True, group_ratio=ratio).concurrency(max_model_len) >= 1
        cure = "the hybrid KV-cache manager" if would_pass else f"--max-model-len {longest}"
        return Prediction(
            "overcommits" if would_pass else "refuses",
            terms,
            longest,
            concurrency,
            one_request,
            None,
            cure,
            doubt=doubt,
        )
    return Prediction("serves", terms, longest, concurrency, host_cure="--max-num-seqs 8", doubt=doubt)


def _doubt(pool: Pool, max_model_len: int) -> str:
    """What would turn the outcome of a boot with this *pool*; empty where `DOUBT_BYTES` more or less would not."""
    sizes = (pool.available_bytes - DOUBT_BYTES, pool.available_bytes + DOUBT_BYTES)
    fits = {replace(pool, available_bytes=max(0.0, size)).concurrency(max_model_len) >= 1 for size in sizes}
    if len(fits) == 1:
        return ""
    asked, seen = (size / GiB for size in (pool.bytes_for(max_model_len), pool.available_bytes))
    return (
        f"one request needs {asked:.2f} GiB, and the KV pool has {seen:.2f} GiB, give or take {DOUBT_BYTES / GiB:.0f}: "
        "what this engine takes beside weights and cache was measured on H200s only"
    )


def predict_pool(pool: Pool, max_model_len: int) -> Prediction:
    """Predict the result of a boot whose KV cache size is set explicitly; other memory is not known."""
    one_request = Term("KV cache of one request", pool.bytes_for(max_model_len))
    terms = (Term("KV pool", pool.available_bytes), one_request)
    longest, concurrency = pool.longest(), pool.concurrency(max_model_len)
    if pool.blocks_for(max_model_len) >= pool.blocks:  # the engine reserves one block
        return Prediction("refuses", terms, longest, concurrency, one_request, None, f"--max-model-len {longest}")
    return Prediction("serves", terms, longest, concurrency)


def available_bytes(device_bytes: float, utilisation: float, weight_bytes: float, other_bytes: float) -> float:
    """Memory of a device left for the KV cache: its share, less the weights, less activations and graphs."""
    return max(0.0, device_bytes * utilisation - weight_bytes - other_bytes)
