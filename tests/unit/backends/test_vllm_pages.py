"""vLLM's pages and groups, against what boots of its CPU build logged (0.32.0, random weights, 1 GiB)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.vllm import kv_dtypes, pages
from pytest_longctx.backends.vllm.pages import Layout, UnlaidError, arrange
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.shapes.caches import Attention, Cache, Latent, Part, State
from pytest_longctx.units import GiB

DATA = Path(__file__).parents[2] / "data"
BOOTS = json.loads((DATA / "vllm" / "cpu-boots.json").read_text())
TINY = json.loads((DATA / "shapes" / "tiny_pages.json").read_text())
FULL = Attention(8, 128, 128)
SLIDING = Attention(8, 128, 128, "sliding", 1024)
LATENT = Latent(512, 64)
STATE = State("gated_delta", Part(24_576), Part(524_288))


def caches(name: str) -> list[tuple[Cache, int]]:
    found = read(TINY[name]["config"])
    assert isinstance(found, ModelShape)
    return [(group.cache, group.layers) for group in found.groups]


@pytest.mark.parametrize("boot", BOOTS, ids=[boot["case"] for boot in BOOTS])
def test_blocks_and_tokens_of_every_boot_are_exact(boot):
    kept = caches(boot["model"])
    size = kv_dtypes.PLAIN[boot["value_bytes"]]
    usual = 16 if any(isinstance(cache, Latent) for cache, _ in kept) else 128
    block = boot["block_size"] or usual
    layout = Layout(
        keys=size,
        latents=size,
        conv_bytes=boot["value_bytes"],
        block_size=block,
        alignment=block,
        hybrid=boot["hybrid"],
        prefix_caching=boot["prefix_caching"],
    )
    found = arrange(kept, layout)
    blocks = GiB // found.block_bytes
    concurrency = blocks / found.blocks_for(boot["max_model_len"], boot["in_flight"])
    assert (blocks, int(concurrency * boot["max_model_len"])) == (boot["blocks"], boot["tokens"])
    assert round(concurrency, 2) == boot["concurrency"]


@pytest.mark.parametrize(
    ("dtype", "bytes_of_128"),
    [
        ("auto", 256),
        ("fp8", 128),
        ("fp8_e5m2", 128),
        ("nvfp4", 72),
        ("int8_per_token_head", 132),
        ("int4_per_token_head", 68),
    ],
)
def test_a_key_has_the_bytes_of_its_dtype(dtype, bytes_of_128):
    size = kv_dtypes.of_keys(dtype, 2)
    assert size is not None
    assert size.of(128) == bytes_of_128


def test_an_unknown_dtype_is_not_another_one():
    assert kv_dtypes.of_keys("turboquant_k8v4", 2) is None
    assert kv_dtypes.of_latents("ultraquant_4bit", 2, packs_fp8=False) is None


def test_fp8_latents_are_packed_for_sparse_kernels():
    packed, plain = (kv_dtypes.of_latents("fp8", 2, packs_fp8=sparse) for sparse in (True, False))
    assert packed is not None
    assert plain is not None
    assert (packed.of(576), plain.of(576)) == (656, 576)


def test_an_indexer_has_132_bytes_beside_each_latent():
    one = Layout(block_size=64)
    plain, sparse = arrange([(LATENT, 61)], one), arrange([(Latent(512, 64, index_dim=128), 61)], one)
    assert sparse.block_bytes - plain.block_bytes == 61 * 64 * 132


def test_a_latent_is_whole_on_every_device_and_heads_are_divided():
    whole = [arrange([(LATENT, 4)], Layout(tensor_parallel=n)).block_bytes for n in (1, 8)]
    heads = [arrange([(FULL, 4)], Layout(tensor_parallel=n)).block_bytes for n in (1, 8, 16)]
    assert whole[0] == whole[1]
    assert [heads[0] // size for size in heads] == [1, 8, 8]


def test_blocks_grow_until_a_page_holds_a_state():
    """Qwen3-Next in BF16 (0.32): 1,097,728 bytes of a state, 1,024 of a token with one KV head: 1,072 or 1,088 tokens."""
    found = arrange([(STATE, 36), (Attention(2, 256, 256), 12)], Layout(tensor_parallel=2))
    state = next(kind for kind in found.kinds if kind.span == "state")
    full = next(kind for kind in found.kinds if kind.span == "full")
    assert full.tokens % 16 == 0
    assert full.page_bytes == state.page_bytes == full.tokens * 1024
    assert (full.tokens - 16) * 1024 < STATE.request_bytes(2, 2, 2) <= full.page_bytes


def test_two_head_shapes_share_a_page_by_blocks_of_more_tokens():
    """Gemma 4: 16 x 256 in windows beside 4 x 512; the smaller page has twice the tokens."""
    found = arrange([(Attention(16, 256, 256, "sliding", 1024), 50), (Attention(4, 512, 512), 10)], Layout())
    assert sorted(kind.tokens for kind in found.kinds) == [16, 32]
    assert len({kind.page_bytes for kind in found.kinds}) == 1
    assert found.groups == 6


def test_windows_are_promoted_without_the_hybrid_manager():
    found = arrange([(SLIDING, 20), (FULL, 4)], Layout(hybrid=False))
    assert found.groups == 1
    assert found.blocks_for(100_000, 8192) == 6250


@pytest.mark.parametrize(
    ("cache", "why"),
    [
        (Latent(448, 64, rate=4), "compress_ratios"),
        (Latent(512, 0, index_dim=128, index_rate=4), "index_kpool"),
        (State("paged_conv", Part(8), Part(0)), "paged_conv"),
        (Attention(4, 128, 128, index_dim=128), "indexer"),
        (State("rwkv", Part(8), Part(8)), "rwkv"),
        (Attention(1, 0, 0), "no layer of this model has a cache"),
    ],
)
def test_what_has_no_known_page_is_refused(cache, why):
    with pytest.raises(UnlaidError, match=why):
        arrange([(cache, 4), (FULL, 4)], Layout())


KINDS = st.lists(
    st.tuples(st.sampled_from([FULL, SLIDING, STATE, Attention(4, 192, 128)]), st.integers(1, 60)),
    min_size=1,
    max_size=4,
)


@given(KINDS, st.sampled_from([1, 2, 8]), st.integers(1, 200_000), st.booleans())
def test_every_layer_is_in_a_group_and_longer_never_needs_less(kept, devices, tokens, caching):
    found = arrange(kept, Layout(tensor_parallel=devices, prefix_caching=caching))
    assert sum(kind.layers for kind in found.kinds) == sum(count for _, count in kept)
    assert found.group_layers * found.groups >= sum(count for _, count in kept)
    assert found.blocks_for(tokens + 1, 8192) >= found.blocks_for(tokens, 8192)


def test_a_pure_state_has_one_block_for_any_length():
    found = arrange([(STATE, 4)], Layout(prefix_caching=False))
    assert found.blocks_for(10, 1) == found.blocks_for(10**7, 1) == 1
    assert isinstance(found, pages.Grouping)
