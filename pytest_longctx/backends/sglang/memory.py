"""
SGLang's memory on one device: weights, the KV pool, and the tables that grow with requests x context.

Checked against boots of 0.5.6.post2 (8 x H200) and 0.5.16 (one H200). SGLang prints "GB" and means GiB.
"""

from dataclasses import dataclass, replace
from math import ceil

from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.units import GiB

GRID_ROWS = 65_535
"""The most blocks a CUDA grid has in y."""
GRID_TILE = 128
"""Pages that one of them covers when graphs are captured."""
GRAPH_TABLES = 3
"""page_table, swa_page_table and local_block_table, each of max batch x context entries."""

SWA_RATIO = 0.8
"""Tokens of a windowed layer's pool for each token of a full layer's, by default."""

COPY_BYTES_PER_S = 17e9
"""How fast the host of one H200 copies ids while it walks its radix tree."""
MAPPED_FROM_TOKENS = 2**22
"""Ids, 8 bytes each, above which copies were seen to be slow: 32 MiB, from where glibc's malloc maps each anew, page by page."""
MAPPED_BYTES_PER_S = 2.1e9
"""How fast those are copied."""

WALKS = ">=0.5.16"
"""The versions whose prefix cache was seen to hold up a prompt."""
_GRAPHS_AT_MOST = {False: "--cuda-graph-max-bs", True: "--cuda-graph-max-bs-decode"}
"""The flag for the largest batch of a decode graph; 0.5.6 has neither the second nor the pool for windowed layers."""

CHUNK_TOKENS = 8192
"""The default chunk of a prompt on devices of 60 to 160 GiB (``server_args.py``, ``_handle_gpu_memory_settings``)."""


def radix_walk_s(tokens: int, chunk_tokens: int, window: int | None = None) -> float:
    """
    How long SGLang's host walks its radix tree while it reads one prompt; the GPU has nothing to do meanwhile.

    After each chunk the prompt is inserted and matched again, from the root, and at each node the ids that are left are copied
    (0.5.16, ``radix_cache.py``, ``RadixKey.__getitem__``): 16 N^3 / (6 c^2) bytes where a node is a chunk. Where layers have a
    *window* and a chunk is longer, it becomes two nodes (``swa_component.py``, ``_maybe_split_leaf_for_swa_lock``), and the
    bytes are twice as many. Those of copies above `MAPPED_FROM_TOKENS` are 16 (N - Q)^2 (N + 2 Q) / (6 c^2) of them.

    The rates are fitted to one run, whose log has the time of every hundredth chunk. Beyond the same prompt without the tree it
    took 1.4 s at 1M, 16.5 s at 2M and 446 s at 5M tokens in chunks of 8,192, for which this gives 2.3, 19 and 436 s. Not fitted:
    46 s at 5M in chunks of 32,768, while the GPU waited for 57, for which it gives 55.

    >>> round(radix_walk_s(5_000_000, 8192)), round(radix_walk_s(5_000_000, 32768, window=8192))
    (436, 55)
    """
    nodes = 2 if window is not None and chunk_tokens > window else 1
    over = max(0, tokens - MAPPED_FROM_TOKENS)
    mapped = over**2 * (tokens + 2 * MAPPED_FROM_TOKENS)
    bytes_per_token_cubed = nodes * 16 / (6 * chunk_tokens**2)
    return bytes_per_token_cubed * ((tokens**3 - mapped) / COPY_BYTES_PER_S + mapped / MAPPED_BYTES_PER_S)


@dataclass(frozen=True, slots=True)
class Boot:
    """One server, from its flags: what it allocates on each device, in the order in which it does."""

    shape: Shape
    device_bytes: float
    """Free on the device before anything is loaded."""
    context: int
    mem_fraction_static: float
    value_bytes: int = 2
    tensor_parallel: int = 1
    weight_value_bytes: float = 2
    max_running_requests: int | None = None
    cuda_graph_max_bs: int | None = 512
    """None: graphs are off."""
    page_size: int = 1
    hybrid_pool: bool = False
    """
    Whether windowed layers have a pool of their own, of `SWA_RATIO` of the tokens: only for Llama 4 as a multimodal model,
    which is what its real checkpoint says; as a bare text model every layer attends to everything.
    """

    @property
    def weight_bytes(self) -> float:
        """Weights and the FP32 table of rotary embeddings."""
        return self.shape.weight_bytes(self.weight_value_bytes, self.tensor_parallel, rope_value_bytes=4)

    @property
    def token_bytes(self) -> float:
        """Bytes that the pool spends for each token it holds, on one device."""
        if not self.hybrid_pool:
            return self.shape.kv_bytes_per_token(self.value_bytes, self.tensor_parallel)
        kept = self.shape.full + SWA_RATIO * (self.shape.chunked + self.shape.sliding)
        return 2 * kept * self.shape.kv_heads_per_device(self.tensor_parallel) * self.shape.head_dim * self.value_bytes

    @property
    def pool_bytes(self) -> float:
        """The KV pool: what ``--mem-fraction-static`` leaves beside the weights. It knows nothing of the tables below."""
        return max(0.0, self.device_bytes * self.mem_fraction_static - self.weight_bytes)

    @property
    def pool_tokens(self) -> int:
        """Tokens in the pool."""
        return int(self.pool_bytes // self.token_bytes)

    @property
    def requests(self) -> int:
        """Running requests: as asked, else 512 x tokens / context, at least 2,048 and at most 4,096."""
        if self.max_running_requests is not None:
            return self.max_running_requests
        return min(4096, max(2048, self.pool_tokens * 512 // self.context))

    @property
    def req_to_token_bytes(self) -> int:
        """
        The table of token places, one row for each request and one to spare, outside ``--mem-fraction-static``.

        >>> 2049 * 10_000_004 * 4 / 2**30   # the default at ten million tokens, in GiB
        76.33...
        """
        return (self.requests + 1) * (self.context + 4) * 4

    @property
    def layer_buffer_bytes(self) -> int:
        """One layer's keys, or its values: the allocations the pool is made of, those of windowed layers first."""
        tokens = int(self.pool_tokens * SWA_RATIO) if self.hybrid_pool else self.pool_tokens
        return tokens * self.shape.kv_heads_per_device(self.tensor_parallel) * self.shape.head_dim * self.value_bytes

    @property
    def graph_table_bytes(self) -> int:
        """
        One of the tables that CUDA graphs need; 0 without graphs.

        A row for each request of the largest batch that can run, an entry for each page: ten million tokens come up with
        graphs, 8 requests and pages of 64 on one H200 (0.5.16).
        """
        return min(self.cuda_graph_max_bs or 0, self.requests) * ceil(self.context / self.page_size) * 4

    @property
    def needed_bytes(self) -> float:
        """All of it."""
        return self.weight_bytes + self.pool_bytes + self.req_to_token_bytes + GRAPH_TABLES * self.graph_table_bytes

    @property
    def longest_with_graphs(self) -> int:
        """
        The longest context a kernel's grid allows while graphs are captured: 8,388,480 x page size.

        Measured on one H200 with 0.5.16: 8,388,480 boots, 8,389,000 fails with "Triton Error [CUDA]: invalid argument".
        """
        return GRID_ROWS * GRID_TILE * self.page_size

    @property
    def longest_admitted(self) -> int:
        """
        The longest prompt it takes, whatever context it advertises: seven less than context or pool, whichever is smaller.

        Measured on one H200 with 0.5.16: of 131,072 tokens 131,065 are served, 131,066 refused.
        """
        return min(self.context, self.pool_tokens) - 7

    def predict(self) -> Prediction:
        """What this boot comes to. Allocated in this order: weights, request table, pool, graph tables."""
        table = Term("req_to_token", self.req_to_token_bytes)
        graphs = Term("CUDA graph tables", GRAPH_TABLES * self.graph_table_bytes)
        terms = (Term("weights", self.weight_bytes), table, Term("KV pool", self.pool_bytes), graphs)
        longest = max(0, self.longest_admitted)
        if not self.pool_tokens:
            return Prediction("runs out of memory", terms, 0, None, terms[0], None, "--tp of twice as many devices")
        over = self.needed_bytes - self.device_bytes
        before_graphs = self.needed_bytes - graphs.size_bytes
        if before_graphs > self.device_bytes:
            # The pool is sized as if the table were not there, so a buffer of the pool fails; the table is the culprit.
            cure = self._cure(over, ("--max-running-requests 8", replace(self, max_running_requests=8)))
            return Prediction("runs out of memory", terms, longest, None, table, self.layer_buffer_bytes, cure)
        if over > 0:
            cure = self._cure(over, (f"{_GRAPHS_AT_MOST[self.hybrid_pool]} 8", replace(self, cuda_graph_max_bs=8)))
            return Prediction("runs out of memory", terms, longest, None, graphs, self.graph_table_bytes, cure)
        if self.cuda_graph_max_bs is not None and self.context > self.longest_with_graphs:
            grid = Term("a kernel grid that is too tall, beside graph tables of", graphs.size_bytes)
            return Prediction("dies", terms, longest, None, grid, None, "--page-size 64")
        return Prediction("serves", terms, longest, advertised_tokens=self.context - 7)

    def _cure(self, over: float, tried: tuple[str, "Boot"]) -> str:
        """The flag, if the boot it makes fits; else how much too large it is."""
        flag, other = tried
        return flag if other.predict().outcome in ("serves", "dies") else f"a server smaller by {over / GiB:.1f} GiB"
