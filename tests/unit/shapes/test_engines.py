"""The closed forms beside what engines logged."""

import json
from math import ceil
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.shapes.caches import Attention, Latent

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "models.json").read_text())
GiB = 2**30


def shape(name: str, **changes: object) -> ModelShape:
    found = read({**MODELS[name]["config"], **changes})
    assert isinstance(found, ModelShape), found
    return found


def test_sglang_logged_gated_delta_net() -> None:
    """0.5.16, one H100, 12 of Qwen3-Next's layers: 713 states, conv_state 0.29 GB, ssm_state 12.55 GB; one more row is a dummy."""
    twelve = shape("qwen3-next-80b", num_hidden_layers=12)
    ((state, layers),) = twelve.states
    assert layers == 9
    rows = 713 + 1
    assert rows * layers * state.conv.numbers * 2 / GiB == pytest.approx(0.29, abs=0.005)
    assert rows * layers * state.recurrent.numbers * 4 / GiB == pytest.approx(12.55, abs=0.005)
    assert 2_491_874 * twelve.kv_bytes_per_token() / 2 / GiB == pytest.approx(7.13, abs=0.005)
    # "mem usage=38.04 GB" is all of the weights
    assert twelve.weight_bytes() / GiB == pytest.approx(38.04, rel=0.005)


def test_sglang_logged_nemotron_h() -> None:
    """0.5.16, one H100: 249 states, conv_state 0.34 GB, ssm_state 23.44 GB, K 13.17 GB for 1,726,813 tokens."""
    model = shape("nemotron-h-8b")
    ((state, layers),) = model.states
    assert layers == 24
    assert 250 * layers * (state.conv.on_device(1)) * 2 / GiB == pytest.approx(0.34, abs=0.005)
    assert 250 * layers * state.recurrent.numbers * 4 / GiB == pytest.approx(23.44, abs=0.005)
    assert 1_726_813 * model.kv_bytes_per_token() / 2 / GiB == pytest.approx(13.17, abs=0.01)
    assert model.weight_bytes() / GiB == pytest.approx(15.11, rel=0.002)
    assert state.recurrent_dtype == "float32"


@pytest.mark.parametrize(
    ("name", "gib"), [("mistral-7b-v0.1", 13.50), ("qwen3-30b-a3b", 57.03)], ids=["mistral", "qwen3-moe"]
)
def test_sglang_logged_weights(name: str, gib: float) -> None:
    assert shape(name).weight_bytes() / GiB == pytest.approx(gib, rel=0.004)


def test_sglang_keeps_all_of_mistral() -> None:
    """0.5.16 has no window pool for this class: 423,036 tokens took 25.82 GB of keys, as many of values."""
    model = shape("mistral-7b-v0.1")
    assert 423_036 * model.kv_bytes_per_token(windowed=True) / 2 / GiB == pytest.approx(25.82, abs=0.01)


def test_heads_are_repeated_beyond_their_number() -> None:
    model = shape("qwen3-30b-a3b")  # four KV heads
    each = [model.kv_bytes_per_token(2, tp) for tp in (1, 2, 4, 8)]
    assert each == [98_304, 49_152, 24_576, 24_576]
    assert shape("DeepSeek-V3").kv_bytes_per_token(2, 8) == 70_272
    assert shape("DeepSeek-V3").kv_bytes_per_token(1, 8) == 35_136


def test_windows_are_kept_and_no_more() -> None:
    model = shape("gpt-oss-120b")
    one = 2 * 8 * 64 * 2
    assert model.kv_bytes(100) == 36 * 100 * one
    assert model.kv_bytes(100_000) == 18 * 100_000 * one + 18 * 128 * one


def test_a_group_of_state_space_channels_is_whole_on_every_device() -> None:
    ((state, _),) = shape("bamba-9b").states  # one group
    whole, half = state.conv.on_device(1), state.conv.on_device(2)
    assert whole == 3 * (8192 + 256)
    assert half == 3 * (4096 + 256)


def test_layers_of_two_kinds_and_shapes_are_told_apart() -> None:
    kinds = {
        (g.cache.span, g.cache.kv_heads, g.cache.key_dim): g.layers
        for g in shape("Gemma-4-31B-IT-NVFP4").groups
        if isinstance(g.cache, Attention)
    }
    assert kinds == {("sliding", 16, 256): 50, ("full", 4, 512): 10}
    indexed = {g.cache.index_dim: g.layers for g in shape("GLM-5.2").groups if isinstance(g.cache, Latent)}
    assert indexed == {128: 21, 0: 57}


def test_it_stands_in_for_the_older_shape() -> None:
    scout = shape("Llama-4-Scout-17B-16E-Instruct")
    assert (scout.full, scout.chunked, scout.sliding, scout.window, scout.layers) == (12, 36, 0, 8192, 48)
    assert (scout.heads, scout.kv_heads, scout.head_dim, scout.hidden, scout.vocabulary) == (40, 8, 128, 5120, 202_048)
    assert scout.rope_positions == 10_485_760
    assert scout.rope_bytes(2) / GiB == 2.5
    assert scout.stage(4).layers == 12


TINY = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "tiny_pages.json").read_text())


@pytest.mark.parametrize("name", sorted(TINY))
def test_pages_are_those_that_vllm_made(name: str) -> None:
    """Bytes of a token, or of a state, in each group of layers of tiny models that vLLM 0.32's CPU build booted."""
    booted = TINY[name]
    found = read(booted["config"])
    assert isinstance(found, ModelShape), found
    width = booted["value_bytes"]
    ours = set()
    for group in found.groups:
        cache = group.cache
        if isinstance(cache, Latent):
            ours.add(("MLAAttention", cache.token_bytes(width)))
        elif isinstance(cache, Attention):
            kind = {"full": "FullAttention", "sliding": "SlidingWindow", "chunked": "ChunkedLocalAttention"}[cache.span]
            ours.add((kind, cache.token_bytes(width)))
        else:
            recurrent = 4 if cache.recurrent_dtype == "float32" else width
            ours.add(("Mamba", cache.request_bytes(width, recurrent)))
    assert ours == {tuple(page) for page in booted["pages"]}


def test_the_block_size_that_a_state_asks_for() -> None:
    """
    Qwen3.6-27B in FP8 on two devices with an FP8 cache, from a public log: block 1,568, 4.99 GiB, 302,921 tokens, 2.31x at 131,072.

    A block holds a state; layers are cut into groups of the rarest kind; one request has two blocks of state in each of its groups.
    """
    model = shape("Qwen3.6-27B")
    ((state, recurrent_layers),) = model.states
    ((attention, full_layers),) = model.attentions
    page = state.request_bytes(2, 4, 2)
    block = 16 * ceil(page / (16 * attention.token_bytes(1, 2)))
    assert (block, recurrent_layers, full_layers) == (1568, 48, 16)
    blocks = int(4.99 * GiB // (full_layers * block * attention.token_bytes(1, 2)))
    each = ceil(131_072 / block) + 2 * recurrent_layers // full_layers
    assert blocks / each == pytest.approx(2.31, abs=0.005)
    assert int(blocks / each * 131_072) == 302_921


def test_what_one_request_of_gemma_needs() -> None:
    """14.23 GiB for 131,072 tokens on one device: a group of full layers and six of sliding ones, in batches of 8,192."""
    model = shape("gemma-3-27b")
    sizes = {c.span: (c, n) for c, n in model.attentions if isinstance(c, Attention)}
    full, count = sizes["full"]
    sliding, slide = sizes["sliding"]
    assert (count, slide, sliding.window) == (10, 52, 1024)
    blocks = 131_072 // 16 + ceil(slide / count) * (ceil((sliding.window - 1 + 8192) / 16) + 1)
    assert blocks * 16 * count * full.token_bytes(2) / GiB == pytest.approx(14.23, abs=0.005)


def test_the_least_work_of_attention() -> None:
    """As physics has it for full and chunked layers: 2 N^2 and 2 N C for each value of the heads."""
    scout = shape("Llama-4-Scout-17B-16E-Instruct")
    tokens, wide = 1_000_000, 40 * 128
    assert scout.attention_flop(tokens) == 2 * tokens**2 * wide * 12 + 2 * tokens * 8192 * wide * 36
    short = 4096  # within a chunk every layer is full
    assert scout.attention_flop(short) == 2 * short**2 * wide * 48
    # sparse attention: with 2,048 of a million tokens, not a hundredth of it
    assert shape("DeepSeek-V3.2").attention_flop(tokens) < shape("DeepSeek-V3").attention_flop(tokens) / 100
    assert shape("DeepSeek-V3").attention_flop(tokens) == tokens**2 / 2 * 2 * 128 * (192 + 128) * 61
