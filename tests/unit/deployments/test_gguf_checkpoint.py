import json
import sys

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pytest_longctx.deployments import gguf_checkpoint
from pytest_longctx.errors import ModelError
from pytest_longctx.prompts import text as prompt_text
from tests.unit import tiny_gguf


def converted(tmp_path, kind="F32", **fields):
    folder = tmp_path / "made"
    folder.mkdir()
    gguf_checkpoint.convert(tiny_gguf.write(tmp_path / "tiny.gguf", kind, **fields), folder)
    return folder


def test_every_weight_of_an_unquantised_file_comes_back(tmp_path):
    """Above all the rows of queries and keys, whose order differs between the two formats."""
    made, original = load_file(converted(tmp_path) / "model.safetensors"), tiny_gguf.original()
    assert set(made) == set(original)
    assert all(np.array_equal(made[name], original[name]) for name in original)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_a_quantised_weight_is_what_its_file_stores(tmp_path, kind):
    made, original = load_file(converted(tmp_path, kind) / "model.safetensors"), tiny_gguf.original()
    step = {"Q4_1": 8 / 15, "Q8_0": 8 / 255}[kind]  # values lie within 4 standard deviations
    assert all(each.dtype == np.float32 for each in made.values())
    assert all(np.abs(made[name] - original[name]).max() < step for name in original)
    values = original["model.layers.1.mlp.up_proj.weight"]
    quantised = gguf.GGMLQuantizationType[kind]
    stored = gguf.dequantize(gguf.quantize(values, quantised), quantised)
    assert np.array_equal(made["model.layers.1.mlp.up_proj.weight"], stored)


def test_the_config_is_that_of_the_file(tmp_path):
    config = json.loads((converted(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["head_dim"], config["num_key_value_heads"]) == (64, 16, 2)
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (1e-5, 100_000.0, True)
    assert (config["max_position_embeddings"], config["torch_dtype"]) == (512, "float32")


def test_an_output_matrix_of_its_own_is_kept(tmp_path):
    own = np.ones((len(tiny_gguf.WORDS), tiny_gguf.HIDDEN), np.float32)
    folder = converted(tmp_path, tensors=[("output.weight", own)])
    assert np.array_equal(load_file(folder / "model.safetensors")["lm_head.weight"], own)
    assert not json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("and the the", ["and", "Ġthe", "Ġthe"]),
        ("the 12", ["the", "Ġ", "1", "2"]),
        ("the\n\n5", ["the", "ĊĊ", "5"]),  # a digit splits the text before its words are found
        ("<|im_end|>the", ["<|im_end|>", "the"]),
    ],
)
def test_the_tokenizer_splits_every_digit_and_merges_words(tmp_path, text, tokens):
    tokenizer = Tokenizer.from_file(str(converted(tmp_path) / "tokenizer.json"))
    encoding = tokenizer.encode(text)
    assert encoding.tokens == tokens
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text


def test_the_chat_template_is_that_of_the_file(tmp_path):
    pytest.importorskip("transformers")
    render = prompt_text.renderer(str(converted(tmp_path)))
    assert render([{"role": "user", "content": "the"}]) == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "qwen2"}, "general.architecture of the GGUF file is 'qwen2'; only 'llama' is supported"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre of the GGUF file is 'llama-bpe'"),
        ({"more": [("llama.rope.scaling.type", "yarn")]}, "scaled rotary embeddings are not supported"),
        (
            {"tensors": [("blk.0.attn_q.bias", np.ones(64, np.float32))]},
            "attn_q.bias of the GGUF file is of an unsupported kind",
        ),
        ({"tensors": [("rope_freqs.weight", np.ones(8, np.float32))]}, "rope_freqs.weight"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, fields, message):
    with pytest.raises(ModelError, match=message):
        converted(tmp_path, **fields)


@pytest.mark.parametrize("length", [0, 3, 100, 5000])
def test_a_file_that_was_cut_off_is_refused(tmp_path, length):
    whole = tiny_gguf.write(tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:length])
    with pytest.raises(ModelError, match=r"cut\.gguf cannot be read as a GGUF file"):
        gguf_checkpoint.convert(tmp_path / "cut.gguf", tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'pytest-longctx\[hf\]'"):
        gguf_checkpoint.convert(tmp_path / "any.gguf", tmp_path)
