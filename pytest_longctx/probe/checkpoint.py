"""The probe as a checkpoint: model configurations, tokenizer files and the folder that an engine loads."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.numpy import save

from pytest_longctx.probe import codes, weights
from pytest_longctx.probe.registry import FAMILIES
from pytest_longctx.probe.weights import LLAMA, LLAMA4, LLAMA4_WITH_IMAGES, Family


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return *content* as the bytes of a JSON file of a probe's checkpoint."""
    return json.dumps(dict(content), indent=1).encode()


def word_level_tokenizer(words: Sequence[str], special: int) -> dict[str, Any]:
    """Return a ``tokenizer.json`` in which id i is the word ``words[i]``. The first *special* ids are special tokens."""
    added = [
        {
            "id": i,
            "content": word,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, word in enumerate(words[:special])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": words[3]},
    }


def texts(config: Mapping[str, Any], words: Sequence[str], special: int) -> dict[str, bytes]:
    """Return every file of a probe's checkpoint except its weights. Ids 0 to 3 are padding, start, end and unknown."""
    text = config.get("text_config", config)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words[1],
        "eos_token": words[2],
        "pad_token": words[0],
        "unk_token": words[3],
        "model_max_length": text["max_position_embeddings"],
    }
    return {
        "config.json": as_json(config),
        "tokenizer.json": as_json(word_level_tokenizer(words, special)),
        "tokenizer_config.json": as_json(tokenizer_config),
        "generation_config.json": as_json({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}),
    }


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """
    Write the files of a checkpoint into *folder*. Files with equal content are not written again.

    Each file appears completely or not at all. Two processes that write the same checkpoint write the same bytes, so
    the order does not matter and a concurrent reader sees correct files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(content) and path.read_bytes() == content:
                continue
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


SCOUT_ATTENTION: Mapping[str, Any] = MappingProxyType(
    {
        # Every fourth layer attends to everything and has no rotary embedding.
        "no_rope_layers": [1, 1, 1, 0],
        "attention_chunk_size": 8192,
        "attn_temperature_tuning": True,
        "attn_scale": 0.1,
        "floor_scale": 8192,
        "use_qk_norm": False,
        "max_position_embeddings": 10_485_760,
        "rope_theta": 500_000.0,
    }
)
"""The attention keys of `config.json` of Llama 4 Scout."""

ANY_DECODER: Mapping[str, Any] = MappingProxyType(
    {
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
)
"""The keys of `config.json` that every made model has."""

_EITHER: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": codes.VOCABULARY,
        "hidden_size": weights.HIDDEN,
        "intermediate_size": weights.MLP,
        "num_attention_heads": weights.HEADS,
        "num_key_value_heads": weights.KV_HEADS,
        "hidden_act": "silu",
        "attention_bias": False,
        **ANY_DECODER,
    }
)

PROBE_LLAMA4: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": [LLAMA4.architecture],
        "model_type": "llama4_text",
        **_EITHER,
        "head_dim": LLAMA4.head_dim,
        "num_hidden_layers": LLAMA4.layers,
        "intermediate_size_mlp": weights.MLP,
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
        # Beyond the last layer, so that no layer has experts however an engine interprets this number.
        "interleave_moe_layer_step": LLAMA4.layers + 1,
        **SCOUT_ATTENTION,
    }
)

PROBE_LLAMA: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": [LLAMA.architecture],
        "model_type": "llama",
        **_EITHER,
        "head_dim": LLAMA.head_dim,
        "num_hidden_layers": LLAMA.layers,
        "max_position_embeddings": 2_097_152,
        # The slower half of the rotary pairs rotates by less than 1e-8 in ten million tokens.
        "rope_theta": 1e30,
    }
)

PROBE_LLAMA4_WITH_IMAGES: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": [LLAMA4_WITH_IMAGES.architecture],
        "model_type": "llama4",
        "text_config": dict(PROBE_LLAMA4),
        # Configured without weights: SGLang then serves text only.
        "vision_config": {
            "model_type": "llama4_vision_model",
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 336,
            "patch_size": 14,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        "boi_token_index": 4,
        "eoi_token_index": 5,
        "image_token_index": 6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
)

ONLY_LAST_CHUNK: Mapping[str, Any] = MappingProxyType({"no_rope_layers": [1, 1, 1, 1], "rope_theta": 1e38})
"""
Layer settings of a damaged copy of `PROBE_LLAMA4`: its last layer sees only its own chunk of 8,192 tokens.

The base of that layer's rotary embedding is chosen so that most of a code stays intact within the chunk.
"""


def make(folder: Path, family: Family, config: Mapping[str, Any]) -> None:
    """Write a probe into *folder*, unless the folder has the right files."""
    files = texts(config, codes.words(), codes.SPECIAL)
    write(folder, {"model.safetensors": save(weights.tensors(family), {"format": "pt"}), **files})


def make_family(folder: Path, name: str) -> None:
    """Write the probe family *name* into *folder*, unless the folder has the right files."""
    family = FAMILIES[name]
    files = texts(family.config, codes.words(), codes.SPECIAL)
    write(folder, {"model.safetensors": save(family.tensors(), {"format": "pt"}), **files})


MADE: Mapping[str, tuple[Callable[[Path], None], Mapping[str, Any]]] = MappingProxyType(
    {
        name: (partial(make, family=family, config=config), config)
        for name, family, config in (
            ("probe-llama4", LLAMA4, PROBE_LLAMA4),
            ("probe-llama4-damaged", LLAMA4, {**PROBE_LLAMA4, **ONLY_LAST_CHUNK}),
            ("probe-llama4-with-images", LLAMA4_WITH_IMAGES, PROBE_LLAMA4_WITH_IMAGES),
            ("probe-llama", LLAMA, PROBE_LLAMA),
        )
    }
    | {name: (partial(make_family, name=name), family.config) for name, family in FAMILIES.items()}
)
"""Every probe: its constructor and its ``config.json``."""
