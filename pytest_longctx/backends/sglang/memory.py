"""
SGLang's memory on one device: weights, the KV pool, and the tables that grow with requests x context.

Checked against boots of 0.5.6.post2 (8 x H200) and 0.5.16 (one H200). SGLang logs "GB" for GiB.
"""

from dataclasses import dataclass, replace
from math import ceil

from pytest_longctx.deployments.capacity import Prediction, Term
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.caches import Attention, Latent
from pytest_longctx.units import GiB

GRID_ROWS = 65_535
"""Largest number of blocks of a CUDA grid in y."""
GRID_TILE = 128
"""Pages per block of that grid during CUDA graph capture."""
GRAPH_TABLES = 3
"""page_table, swa_page_table and local_block_table, each of max batch x context entries."""

SWA_RATIO = 0.8
"""Default number of tokens in a windowed layer's pool per token of a full layer's pool."""

STATE_RATIO = 0.9
"""Default bytes of states (Mamba-2, Gated DeltaNet) per byte of the KV pool (``--mamba-full-memory-ratio``)."""
STATES_PER_REQUEST = 3
"""States that a running request may hold if the radix cache is on (``_handle_max_mamba_cache``, 0.5.16 and 0.5.23)."""
PACKED_LATENT_BYTES = 656
"""
An FP8 latent of a sparse model: 512 values, four FP32 scales, 64 rotary values in BF16
(``calculate_mla_kv_cache_dim``).
"""


_GRAPHS_AT_MOST = {False: "--cuda-graph-max-bs", True: "--cuda-graph-max-bs-decode"}
"""
The flag for the largest batch of a decode graph. 0.5.6 has no second name of the flag and no pool for windowed layers.
"""

CHUNK_TOKENS = 8192
"""Default prefill chunk on devices of 60 to 160 GiB (``server_args.py``, ``_handle_gpu_memory_settings``)."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Memory of one SGLang server, computed from its flags, in the order of the engine's allocations on each device."""

    shape: Shape
    device_bytes: float
    """Free memory of the device before anything is loaded."""
    context: int
    mem_fraction_static: float
    value_bytes: int = 2
    tensor_parallel: int = 1
    weight_value_bytes: float = 2
    max_running_requests: int | None = None
    cuda_graph_max_bs: int | None = 512
    """Largest batch of CUDA graphs; None without graphs."""
    page_size: int = 1
    hybrid_pool: bool = False
    """
    Whether windowed layers have their own pool, with `SWA_RATIO` of the tokens.

    Only Llama 4 as a multimodal model has it, as its real checkpoint is. As a text model, every layer has full
    attention.
    """
    swa_ratio: float = SWA_RATIO
    """Tokens in a windowed layer's pool per token of a full layer's pool."""
    latent_bytes: int | None = None
    """Bytes of one token's latent if its layout is fixed; None for *value_bytes* per value."""
    indexed_by_all: bool = False
    """Whether every layer has room for an indexer's key, as up to 0.5.22, even if it uses the key of another layer."""
    state_value_bytes: int = 4
    """Of a recurrent state."""
    state_ratio: float = STATE_RATIO
    """Bytes of states per byte of the other pools."""
    state_slots: int | None = None
    """Requested number of states; None: as many as *state_ratio* allows."""
    max_total_tokens: int | None = None
    """Most tokens of the pool; None: as many as fit into the memory."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of device memory for the weights and the FP32 table of rotary embeddings."""
        return self.shape.weight_bytes(self.weight_value_bytes, self.tensor_parallel, rope_value_bytes=4)

    @property
    def token_bytes(self) -> float:
        """Bytes of SGLang's KV pool per token, on one device."""
        return sum(count * self._kept(cache) * self._size(cache) for cache, count in self._caches)

    @property
    def _caches(self) -> tuple[tuple[Attention | Latent, int], ...]:
        """Return the KV caches with memory for each token, and the number of layers of each."""
        if self.shape.model is not None:
            return self.shape.model.attentions
        heads, width, window = self.shape.kv_heads, self.shape.head_dim, self.shape.window
        kinds = ((self.shape.full, 0), (self.shape.chunked + self.shape.sliding, window))
        return tuple((Attention(heads, width, width, window=w), n) for n, w in kinds if n)

    def _kept(self, cache: Attention | Latent) -> float:
        """
        Return the number of tokens in this layer's KV pool per token in a full-attention layer's pool
        (``pool_configurator.py``).
        """
        full = any(not other.window for other, _ in self._caches)
        return self.swa_ratio if self.hybrid_pool and cache.window and full else 1.0

    def _size(self, cache: Attention | Latent) -> float:
        """Return the bytes of one token in one layer's KV cache, on one device."""
        if isinstance(cache, Attention):
            return cache.token_bytes(self.value_bytes, self.tensor_parallel)
        latent = self.latent_bytes or (cache.rank + cache.rope_dim) * self.value_bytes
        indexed = max((other.index_bytes for other, _ in self._caches if isinstance(other, Latent)), default=0)
        return latent + (indexed if self.indexed_by_all else cache.index_bytes)

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent states of one request, on one device."""
        model = self.shape.model
        return model.state_bytes(2, self.state_value_bytes, self.tensor_parallel) if model is not None else 0

    @property
    def states(self) -> int:
        """Number of recurrent states that fit into the memory; 0 if no layer has one."""
        if not self.state_bytes:
            return 0
        if self.state_slots is not None:
            return self.state_slots
        return int(self._share_bytes * self.state_ratio / (1 + self.state_ratio) // self.state_bytes)

    @property
    def _share_bytes(self) -> float:
        """
        Bytes that ``--mem-fraction-static`` leaves to SGLang's pools after the weights, before the tables below are
        subtracted.
        """
        return max(0.0, self.device_bytes * self.mem_fraction_static - self.weight_bytes)

    @property
    def pool_bytes(self) -> float:
        """Bytes of SGLang's KV pool and states: their whole share, or less with ``--max-total-tokens``."""
        if self.max_total_tokens is None or self.pool_tokens < self.max_total_tokens:
            return self._share_bytes
        return self.pool_tokens * self.token_bytes + self.states * self.state_bytes

    @property
    def pool_tokens(self) -> int:
        """Tokens in SGLang's KV pool, at most ``--max-total-tokens``."""
        if not self.token_bytes:
            return self.context  # every layer keeps a state, and nothing of a token
        held = max(0, int((self._share_bytes - self.states * self.state_bytes) // self.token_bytes))
        return held if self.max_total_tokens is None else min(held, self.max_total_tokens)

    @property
    def requests(self) -> int:
        """
        Most running requests of SGLang: as configured or, by default, 512 x tokens / context, from 2,048 to 4,096.

        With states, at most the number of their slots.
        """
        wanted = self.max_running_requests
        if wanted is None:
            wanted = min(4096, max(2048, self.pool_tokens * 512 // self.context))
        return min(wanted, max(1, self.states // STATES_PER_REQUEST)) if self.state_bytes else wanted

    @property
    def req_to_token_bytes(self) -> int:
        """
        Bytes of the request-to-token table with one spare row, which ``--mem-fraction-static`` does not include.

        >>> 2049 * 10_000_004 * 4 / 2**30   # the default at ten million tokens, in GiB
        76.33...
        """
        return (self.requests + 1) * (self.context + 4) * 4

    @property
    def layer_buffer_bytes(self) -> int:
        """Bytes of one layer's keys (or values), the pool's unit of allocation. Windowed layers are allocated first."""
        tokens = int(self.pool_tokens * self.swa_ratio) if self.hybrid_pool else self.pool_tokens
        return tokens * self.shape.kv_heads_per_device(self.tensor_parallel) * self.shape.head_dim * self.value_bytes

    @property
    def graph_table_bytes(self) -> int:
        """
        Bytes of one of the tables for CUDA graphs; 0 without graphs.

        It has a row per request of the largest batch, and an entry per page. Ten million tokens boot with graphs, 8
        requests and pages of 64 on one H200 (0.5.16).
        """
        return min(self.cuda_graph_max_bs or 0, self.requests) * ceil(self.context / self.page_size) * 4

    @property
    def needed_bytes(self) -> float:
        """Bytes of all memory that SGLang allocates on one device."""
        return self.weight_bytes + self.pool_bytes + self.req_to_token_bytes + GRAPH_TABLES * self.graph_table_bytes

    @property
    def longest_with_graphs(self) -> int:
        """
        Longest context that a kernel's grid allows during SGLang's graph capture: 8,388,480 x page size.

        Measured on one H200 with 0.5.16: 8,388,480 boots; 8,389,000 fails with "Triton Error [CUDA]: invalid argument".
        """
        return GRID_ROWS * GRID_TILE * self.page_size

    @property
    def longest_admitted(self) -> int:
        """
        Longest prompt that SGLang accepts: the smaller of context and pool, minus 7. The advertised context does not
        matter.

        Measured on one H200 with 0.5.16: it serves 131,065 of 131,072 tokens and refuses 131,066.
        """
        return min(self.context, self.pool_tokens) - 7

    def predict(self) -> Prediction:
        """
        Return the predicted result of this SGLang boot by its memory, in the order weights, request table, pool, graph
        tables.
        """
        table = Term("req_to_token", self.req_to_token_bytes)
        graphs = Term("CUDA graph tables", GRAPH_TABLES * self.graph_table_bytes)
        pool = Term("KV pool", self.pool_bytes)
        terms: tuple[Term, ...] = (Term("weights", self.weight_bytes), table, pool, graphs)
        longest = max(0, self.longest_admitted)
        if self.state_bytes:
            terms += (Term(f"{self.states:,} states", self.states * self.state_bytes),)
        if not self.pool_tokens or (self.state_bytes and self.states < 1):
            return Prediction("runs out of memory", terms, 0, None, terms[0], None, "--tp of twice as many devices")
        over = self.needed_bytes - self.device_bytes
        before_graphs = self.needed_bytes - graphs.size_bytes
        if before_graphs > self.device_bytes:
            # The pool is sized as if the table did not exist, so a buffer of the pool fails; the table is the cause.
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
        """Return the flag of *tried* if the boot with it fits into memory, else the number of missing GiB."""
        flag, other = tried
        fits = other != self and other.predict().outcome in ("serves", "dies")  # itself would be tried for ever
        return flag if fits else f"a server smaller by {over / GiB:.1f} GiB"
