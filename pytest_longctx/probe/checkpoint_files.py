"""A checkpoint's folder: its tokenizer, and how its files come to be there."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def as_json(content: Mapping[str, Any]) -> bytes:
    """*content* as the bytes of a file."""
    return json.dumps(dict(content), indent=1).encode()


def word_level_tokenizer(words: Sequence[str], special: int) -> dict[str, Any]:
    """A ``tokenizer.json`` in which id i is the word ``words[i]``; the first *special* ids are special tokens."""
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
    """Every file of a checkpoint but its weights. Ids 0 to 3 are padding, start, end and unknown."""
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
    Put *files* into *folder*; one that is there and right is left alone.

    Each file appears whole or not at all. Two processes that make the same checkpoint write the same bytes, so that it
    does not matter who is last, and a reader in between reads the right ones.
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
