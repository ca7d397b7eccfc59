"""Time that SGLang's host spends in its radix tree, the prefix cache, during one prefill."""

from pytest_longctx.toml import overlap

COPY_BYTES_PER_S = 17e9
"""Copy rate of token ids during the radix-tree walk, on the host of one H200."""
MAPPED_FROM_TOKENS = 2**22
"""Copies of more ids (8 bytes each) are slow, as measured: above 32 MiB, glibc's malloc maps new pages each time."""
MAPPED_BYTES_PER_S = 2.1e9
"""Copy rate above that size."""
WALKS = ">=0.5.16,<0.5.23"
"""Versions whose radix tree copies the rest of a prompt at each node, as 0.5.16 was measured to do."""
MEASURED = ">=0.5.16"
"""Versions whose delay of prompts by the prefix cache is known."""
INSERT_S_PER_TOKEN = 9.5e-9
"""
Seconds per token that the Rust core of 0.5.23 takes to insert a prompt again: 9 to 9.5 ns of processor time at 1M and
2M tokens, on an AMD EPYC without a GPU.
"""
SLICES = 2
"""Copies of a prompt's ids that 0.5.23 makes in Python for each chunk (``checkpoint_into_tree``)."""


def radix_walk_s(tokens: int, chunk_tokens: int, window: int | None = None) -> float:
    """
    Return the time for which SGLang's host walks its radix tree during one prefill, while the GPU is idle.

    After each chunk, SGLang inserts the prompt and matches it again from the root. At each node it copies the remaining
    ids (0.5.16, ``radix_cache.py``, ``RadixKey.__getitem__``): 16 N^3 / (6 c^2) bytes if a node is a chunk. If layers
    have a *window* that is shorter than a chunk, the chunk becomes two nodes (``swa_component.py``,
    ``_maybe_split_leaf_for_swa_lock``), and twice as many bytes are copied. Of these, 16 (N - Q)^2 (N + 2 Q) / (6 c^2)
    are in copies above `MAPPED_FROM_TOKENS`.

    The rates are fitted to one run, whose log has the time of every hundredth chunk. The walk added 1.4 s at 1M, 16.5 s
    at 2M and 446 s at 5M tokens to the time without a tree, in chunks of 8,192. The formula gives 2.3, 19 and 436 s. Not
    used for the fit: the walk added 46 s at 5M in chunks of 32,768, with 57 s of idle GPU; the formula gives 55 s.

    >>> round(radix_walk_s(5_000_000, 8192)), round(radix_walk_s(5_000_000, 32768, window=8192))
    (436, 55)
    """
    nodes = 2 if window is not None and chunk_tokens > window else 1
    over = max(0, tokens - MAPPED_FROM_TOKENS)
    mapped = over**2 * (tokens + 2 * MAPPED_FROM_TOKENS)
    bytes_per_token_cubed = nodes * 16 / (6 * chunk_tokens**2)
    return bytes_per_token_cubed * ((tokens**3 - mapped) / COPY_BYTES_PER_S + mapped / MAPPED_BYTES_PER_S)


def tree_insert_s(tokens: int, chunk_tokens: int) -> float:
    """
    Return the time for which the host of SGLang 0.5.23 writes one prompt into its radix tree, whose core is in Rust.

    After each chunk, the ids up to its end are copied twice, and the core converts and compares them once. No node is
    sliced any more, so the time grows with N^2 / (2 c), not with N^3 / (6 c^2). The GPU works meanwhile: one H200 read
    10M tokens in 242.7 s and was busy 94 % of it; without the tree, 0.5.16 took 237.8 s. So this is an upper limit.

    >>> round(tree_insert_s(5_000_000, 8192)), round(tree_insert_s(10_000_000, 8192))
    (19, 97)
    """
    over = max(0.0, tokens**2 - MAPPED_FROM_TOKENS**2) if tokens > MAPPED_FROM_TOKENS else 0.0
    copied_s = SLICES * 8 * ((tokens**2 - over) / COPY_BYTES_PER_S + over / MAPPED_BYTES_PER_S)
    return (tokens**2 * INSERT_S_PER_TOKEN + copied_s) / (2 * chunk_tokens)


def host_s(tokens: int, chunk_tokens: int, version: str | None, window: int | None = None) -> float:
    """Return the most seconds that the prefix cache of SGLang *version* adds to a prefill. No version means the newest."""
    if version is not None and overlap(version, WALKS):
        return radix_walk_s(tokens, chunk_tokens, window)
    return tree_insert_s(tokens, chunk_tokens)
