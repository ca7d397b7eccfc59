import hashlib
import json
import multiprocessing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from pytest_longctx.probe import checkpoint, codes, weights
from pytest_longctx.probe.weights import HIDDEN, LLAMA, LLAMA4, LLAMA4_WITH_IMAGES

FAMILIES = {"probe-llama4": LLAMA4, "probe-llama4-with-images": LLAMA4_WITH_IMAGES, "probe-llama": LLAMA}
PINNED = {
    "probe-llama4": "8d678b195d5d",
    "probe-llama4-with-images": "c8851b890819",
    "probe-llama": "e4c3b171a8eb",
}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint.MADE[request.param][0](folder)
    return folder, FAMILIES[request.param], checkpoint.MADE[request.param][1], request.param


def test_the_weights_never_change_between_versions(made):
    """A change here makes another model, and earlier results would not apply to it."""
    folder, _, _, name = made
    digest = hashlib.sha256()
    for tensor, values in sorted(load_file(folder / "model.safetensors").items()):
        digest.update(tensor.encode() + values.tobytes())
    assert digest.hexdigest()[:12] == PINNED[name]


def test_the_files_are_a_checkpoint(made):
    folder, family, config, _ = made
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == config
    text = config.get("text_config", config)
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"bfloat16"}
    assert len(tensors) == 3 + 9 * text["num_hidden_layers"]
    last = f"{family.prefix}model.layers.{text['num_hidden_layers'] - 1}.self_attn."
    heads = text["num_attention_heads"] * text["head_dim"]
    kv_heads = text["num_key_value_heads"] * text["head_dim"]
    assert tensors[f"{last}q_proj.weight"].shape == (heads, text["hidden_size"])
    assert tensors[f"{last}k_proj.weight"].shape == (kv_heads, text["hidden_size"])
    assert tensors[f"{last}o_proj.weight"].shape == (text["hidden_size"], heads)
    assert tensors[f"{family.prefix}lm_head.weight"].shape == (text["vocab_size"], text["hidden_size"])


def test_a_probe_that_is_right_is_left_alone_and_one_that_is_not_is_mended(tmp_path):
    make, _ = checkpoint.MADE["probe-llama"]
    make(tmp_path)
    before, written = content(tmp_path), {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    weight_bytes = bytearray(before["model.safetensors"])
    weight_bytes[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weight_bytes)
    (tmp_path / "tokenizer.json").write_text("cut off", encoding="utf-8")
    make(tmp_path)
    assert content(tmp_path) == before


def make_one(folder):
    checkpoint.MADE["probe-llama"][0](folder)


def test_several_processes_may_make_it_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(make_one, [tmp_path / "shared"] * 4, chunksize=1)
    make_one(tmp_path / "alone")
    names = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert set(content(tmp_path / "shared")) == names
    assert content(tmp_path / "shared") == content(tmp_path / "alone")


@pytest.mark.parametrize("family", [LLAMA4, LLAMA], ids=lambda family: family.architecture)
def test_no_weight_is_rounded(family):
    projections = [*weights.attention(family).values(), *weights.idle_attention(family, 0).values()]
    for matrix in (weights.embedding(), weights.output(), *projections):
        assert np.array_equal(matrix.astype(ml_dtypes.bfloat16).astype(np.float32), matrix)


def test_norms_change_nothing():
    table = weights.embedding()
    used = np.flatnonzero(table.any(axis=1))
    assert set((table[used] ** 2).sum(axis=1)) == {HIDDEN}
    assert set(used) >= {*range(codes.SPECIAL, codes.ERASED + codes.RUNGS), *range(codes.ASK, codes.VOCABULARY)}


def test_filler_has_neither_key_nor_value_and_every_filler_is_its_own():
    filler = weights.embedding()[codes.FILLER :]
    projections = weights.attention(LLAMA4)
    assert not any((filler @ projections[name].T).any() for name in "qkv")
    some = slice(0, None, 97)
    message = np.argmax(filler[some] @ weights.output().T, axis=1)
    assert np.array_equal(message, np.arange(codes.FILLER, codes.VOCABULARY)[some])


def test_only_the_last_layer_says_anything():
    tensors = weights.in_float32(LLAMA4)
    outputs = [tensors[f"model.layers.{layer}.self_attn.o_proj.weight"].any() for layer in range(4)]
    assert outputs == [False, False, False, True]
    assert all(tensors[f"model.layers.{layer}.self_attn.k_proj.weight"].any() for layer in range(4))


def test_rotary_embeddings_leave_the_codes_of_the_plain_probe_alone():
    pairs = np.array(LLAMA.dims) % (LLAMA.head_dim // 2)
    turned = 10_000_000 * checkpoint.PROBE_LLAMA["rope_theta"] ** (-2 * pairs / LLAMA.head_dim)
    assert turned.max() <= 1e-8 * (1 + 1e-9)
    assert len(set(LLAMA.dims)) == codes.WIDTH
