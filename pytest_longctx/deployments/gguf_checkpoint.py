"""
Convert a GGUF file to a checkpoint for vLLM and SGLang: FP32 weights, ``config.json`` and the tokenizer's files.

It supports only what one published file needs: the Llama architecture with a byte-level BPE tokenizer of the kind
``smollm``. Anything else is refused, because a wrong guess would give a model that is slightly wrong.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from pytest_longctx.errors import ModelError

_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
"""Maps the tensors of a layer from their names in GGUF to their names in a checkpoint."""

_OUTSIDE: Final[Mapping[str, str]] = MappingProxyType(
    {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
)

_SPECIAL: Final = 3
"""Token type of a control token in GGUF."""


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise ModelError(
            "reading a GGUF file needs the package gguf, which is not installed: pip install 'pytest-longctx[hf]'"
        ) from None


def convert(source: Path, folder: Path) -> None:
    """
    Write the model of the GGUF file *source* into the existing *folder*. Raises `ModelError` for an unsupported file.

    Every weight is dequantised to FP32, which changes none of its values.
    """
    gguf = _package()
    try:
        reader = gguf.GGUFReader(source)
        known = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, LookupError) as problem:
        raise ModelError(f"{source.name} cannot be read as a GGUF file: {problem}") from None
    names = [tensor.name for tensor in reader.tensors]
    files = texts(known, tied="output.weight" not in names)
    weights = dict(_weights(reader.tensors, gguf.dequantize, known))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _weights(
    tensors: Any, dequantize: Callable[..., np.ndarray], known: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the values of every weight of a GGUF file with the fields *known*."""
    heads = {"attn_q": known["llama.attention.head_count"], "attn_k": known["llama.attention.head_count_kv"]}
    for tensor in tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _OUTSIDE:
            yield _OUTSIDE[tensor.name], values
            continue
        parts = tensor.name.split(".")
        if tensor.name == "output.weight":
            yield "lm_head.weight", values
        elif len(parts) == len(("blk", "0", "attn_q", "weight")) and parts[2] in _NAMES and parts[3] == "weight":
            kind = parts[2]
            values = halves(values, heads[kind]) if kind in heads else values
            yield f"model.layers.{parts[1]}.{_NAMES[kind]}.weight", values
        else:
            raise ModelError(f"the tensor {tensor.name} of the GGUF file is of an unsupported kind")


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """
    Return the rows of a query or key projection in the order of checkpoints: in a head the first of all rotary pairs,
    then the second.

    In GGUF files of this architecture, the two rows of a pair are neighbours.
    """
    paired = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows.shape))


def texts(known: Mapping[str, Any], *, tied: bool) -> dict[str, dict[str, Any]]:
    """
    Return the content of every JSON file of the checkpoint, from the fields *known* of a GGUF file.

    *tied*: the output uses the embeddings. Raises `ModelError` for another architecture or tokenizer.
    """
    for field, understood in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if known.get(field) != understood:
            raise ModelError(f"{field} of the GGUF file is {known.get(field)!r}; only {understood!r} is supported")
    scaled = sorted(name for name in known if name.startswith("llama.rope.scaling"))
    if scaled:
        raise ModelError(f"the GGUF file has {scaled[0]}; scaled rotary embeddings are not supported")
    ids = {name: known[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    return {
        "config.json": _config(known, ids, tied=tied),
        "generation_config.json": {f"{name}_token_id": each for name, each in ids.items()},
        "tokenizer.json": _tokenizer(known),
        "tokenizer_config.json": _tokenizer_config(known),
    }


def _config(known: Mapping[str, Any], ids: Mapping[str, int], *, tied: bool) -> dict[str, Any]:
    hidden, heads = known["llama.embedding_length"], known["llama.attention.head_count"]
    if known.get("llama.rope.dimension_count", hidden // heads) != hidden // heads:
        raise ModelError("the GGUF file rotates only a part of each head, which is not supported")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(known["tokenizer.ggml.tokens"]),
        "hidden_size": hidden,
        "intermediate_size": known["llama.feed_forward_length"],
        "num_hidden_layers": known["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": known["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": known["llama.context_length"],
        "rope_theta": known["llama.rope.freq_base"],
        # GGUF has single precision: 1e-5 is stored as 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(known["llama.attention.layer_norm_rms_epsilon"]))),
        "tie_word_embeddings": tied,
        **{f"{name}_token_id": each for name, each in ids.items()},
        "torch_dtype": "float32",
    }


def _tokenizer(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``: byte-level BPE in which every digit is one token."""
    words = known["tokenizer.ggml.tokens"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [i for i, kind in enumerate(known["tokenizer.ggml.token_type"]) if kind == _SPECIAL]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": words[i], "special": True, **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_of],
        },
        "post_processor": None,
        "decoder": bytes_of,
        "model": {
            "type": "BPE",
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [merge.split(" ") for merge in known["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(known: Mapping[str, Any]) -> dict[str, Any]:
    words = known["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": words[known[f"tokenizer.ggml.{field}_token_id"]] for name, field in named.items()},
        "model_max_length": known["llama.context_length"],
        "chat_template": known["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
    }
