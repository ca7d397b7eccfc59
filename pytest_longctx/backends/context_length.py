"""
The longest context that an engine derives from config.json and allows without a flag.

Sources: vLLM ``_get_and_verify_max_len`` (``config/model.py``, 0.12.0, 0.25.1 and 0.28.0 to 0.33.0) and
``derive_max_model_len_and_key`` (``transformers_utils/model_arch_config_convertor.py``, 0.28.0 to 0.33.0), SGLang
``get_context_length`` (``srt/utils/hf_transformers_utils.py``, 0.5.6.post2 to 0.5.23).
"""

from collections.abc import Mapping
from typing import Any

_VLLM_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Keys of config.json; vLLM takes the smallest, but model_max_length before all others."""
_SGLANG_KEYS = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length", "max_position_embeddings")
"""Keys of config.json; SGLang takes the first one present."""
_UNSCALED = frozenset({"su", "longrope", "llama3", "default", "mrope", "proportional"})
"""Kinds of scaling that the length in the config already includes."""
_YARN = frozenset({"yarn", "deepseek_yarn", "telechat3-yarn"})
YARN_IS_INCLUDED = ">=0.30"
"""
Versions of vLLM that take the positions beside YaRN as scaled already. Older ones multiply the original positions by
the factor.
"""
ASSUMED_BY_VLLM = 2048
"""The longest context in tokens that vLLM assumes if config.json has no key for it."""
MOST_TOKENS = 2**40


def derived(engine: str, config: Mapping[str, Any], read_positions: int, *, yarn_included: bool = True) -> int | None:
    """
    Return the longest context in tokens that *engine* derives from config.json; None if the config names none.

    *read_positions* is the number that the reader of shapes found, with the defaults of the model's class.
    *yarn_included*: the version of vLLM is one of `YARN_IS_INCLUDED`.
    """
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)), config)
    keys = _VLLM_KEYS if engine == "vllm" else _SGLANG_KEYS
    found = [value for key in keys if (value := _whole(text.get(key))) is not None]
    if not found:
        return read_positions or None
    if engine == "sglang":
        return _scaled_by_sglang(found[0], text)
    positions = _whole(text.get("model_max_length")) or min(found)
    return _scaled_by_vllm(positions, text, str(config.get("model_type", "")), yarn_included=yarn_included)


def by_default(engine: str, config: Mapping[str, Any], longest: int) -> int:
    """
    Return the context length in tokens without a flag, given the *longest* one. vLLM uses the original positions of a
    LongRoPE.
    """
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)), config)
    if engine == "vllm" and any(kind(table) in ("longrope", "su") for table in tables(text)):
        return _whole(text.get("original_max_position_embeddings")) or longest
    return longest


def _whole(value: Any) -> int | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MOST_TOKENS
    return int(value) if usable else None


def _factor(table: Mapping[str, Any]) -> float:
    value = table.get("factor")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < MOST_TOKENS:
        return 1.0
    return float(value)


def kind(table: Mapping[str, Any]) -> str:
    """Return the kind of position scaling in a *table* of rotary embeddings."""
    return str(table.get("rope_type", table.get("type", "default")))


def tables(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """
    Return the tables of rotary embeddings that scale the context length: one for the model, or one for each kind of
    layer.
    """
    found: list[Mapping[str, Any]] = []
    for key in ("rope_scaling", "rope_parameters"):
        table = text.get(key)
        if isinstance(table, Mapping):
            inner = [each for each in table.values() if isinstance(each, Mapping)]
            found += inner or [table]
    return found


def _scaled_by_vllm(positions: int, text: Mapping[str, Any], model_type: str, *, yarn_included: bool) -> int:
    """
    Return vLLM's context length in tokens: positions times their scaling factor. For YaRN, older versions multiply the
    original positions.
    """
    longest = float(positions)
    for table in tables(text):
        if kind(table) in _UNSCALED or "gemma3" in model_type or "gemma3" in str(text.get("model_type", "")):
            continue
        if kind(table) in _YARN and yarn_included:
            continue
        original = _whole(table.get("original_max_position_embeddings")) if kind(table) == "yarn" else None
        longest = (original or positions) * _factor(table)
        break
    return int(longest)


def _scaled_by_sglang(positions: int, text: Mapping[str, Any]) -> int:
    """
    Return SGLang's context length in tokens: positions times the factor. A table with original positions, or of type
    ``llama3`` or ``default``, has no factor.
    """
    for table in tables(text):
        if "original_max_position_embeddings" in table or kind(table) in ("llama3", "default"):
            continue
        return int(positions * _factor(table))
    return positions
