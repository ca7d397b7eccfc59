"""Which layers have full attention and which a window, by all published names of keys."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pytest_longctx.shapes.caches import Span
from pytest_longctx.shapes.config_keys import LARGEST, Keys, shown

Spanned = tuple[Span, int]
"""Span of a layer's attention, and the tokens of its window."""

Rule = Callable[[Keys, int], list[Spanned]]

FULL: Spanned = ("full", 0)

LAYER_TYPES: Mapping[str, Span] = MappingProxyType(
    {
        "full_attention": "full",
        "global_attention": "full",
        "global": "full",
        "full": "full",
        "attention": "full",
        "sliding_attention": "sliding",
        "sliding": "sliding",
        "local": "sliding",
        "chunked_attention": "chunked",
    }
)


DRAFT = (
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "num_mtp_layers",
    "num_mtp_modules",
    "mtp_num_layers",
    "_num_mtp_layers",
)


def draft_layers(k: Keys) -> int:
    """Return the number of layers of multi-token prediction after the model's own layers."""
    return max((k.maybe(name) or 0 for name in DRAFT), default=0)


def window(k: Keys) -> int:
    """Return the span of sliding attention in tokens; 0 without a window."""
    value = k.raw("sliding_window")
    if value is None or value is False:
        return 0
    if k.has("sliding_window_size") and k.count("sliding_window_size") != value:
        raise k.refuse("sliding_window_size", f"the value differs from sliding_window, {shown(value)}")
    return k.count("sliding_window", least=0)


def named(k: Keys, layers: int) -> list[str] | None:
    """Return the kinds of attention span that ``layer_types`` names; None if the config lacks this key."""
    if not k.has("layer_types"):
        return None
    found = k.per_layer("layer_types", layers, extra=draft_layers(k))
    return None if found is None else [str(item) for item in found]


def by_name(k: Keys, names: Sequence[str]) -> list[Spanned]:
    """Return the attention spans of layers of the kinds *names*."""
    spans: list[Spanned] = []
    if all(LAYER_TYPES.get(name) == "full" for name in names):
        k.raw("sliding_window")  # no layer has it
    for name in names:
        if name not in LAYER_TYPES:
            raise k.refuse("layer_types", f"unknown kind of layer: {shown(name)}")
        spans.append(_sized(k, LAYER_TYPES[name]))
    return spans


def _sized(k: Keys, span: Span) -> Spanned:
    if span == "full":
        return FULL
    if span == "chunked":
        return span, k.count("attention_chunk_size")
    tokens = window(k)
    if not tokens:
        raise k.refuse("sliding_window", "some layers have a sliding window, but this key is missing")
    return span, tokens


def from_kinds(k: Keys, default: Callable[[int], bool], layers: int) -> list[Spanned]:
    """
    Return the attention spans by ``layer_types``; without it, a layer slides if *default* returns True for it and there
    is a window.
    """
    if names := named(k, layers):
        return by_name(k, names)
    tokens = window(k)
    return [("sliding", tokens) if tokens and default(i) else FULL for i in range(layers)]


def everything(k: Keys, layers: int) -> list[Spanned]:
    """Return full attention spans for all layers, unless the file itself names kinds of layers."""
    names = named(k, layers)
    return by_name(k, names) if names else [FULL] * layers


def all_slide(k: Keys, layers: int) -> list[Spanned]:
    """Return the attention spans of Mistral 7B and Phi-3: every layer slides if there is a window at all."""
    return from_kinds(k, lambda _: True, layers)


def qwen(k: Keys, layers: int) -> list[Spanned]:
    """Return the attention spans of Qwen 2 and 3: with ``use_sliding_window``, layers from ``max_window_layers`` on slide."""
    if not k.flag("use_sliding_window"):
        k.raw("sliding_window")  # without the switch it means nothing
        names = named(k, layers)
        return by_name(k, names) if names else [FULL] * layers
    first = k.count("max_window_layers", default=layers, least=0)
    return from_kinds(k, lambda i: i >= first, layers)


def every(key: str, default: int) -> Rule:
    """
    Return a rule with full attention in the last layer of each group: Gemma 3 (6), Cohere 2, OLMo 3, EXAONE 4 (4),
    gpt-oss, Gemma 2 (2).
    """

    def rule(k: Keys, layers: int) -> list[Spanned]:
        if isinstance(k.raw(key), str):
            return _lettered(k, key, layers)
        step = k.count(key, f"_{key}", default=default, least=0)
        return from_kinds(k, lambda i: step > 0 and (i + 1) % step != 0, layers)

    return rule


def _lettered(k: Keys, key: str, layers: int) -> list[Spanned]:
    """Return the attention spans in EXAONE's ``LLLG``: L slides, G is full."""
    letters = k.word(key) or ""
    if not letters or set(letters) - {"L", "G"}:
        raise k.refuse(key, f"must be a pattern of L and G; found {shown(letters)}")
    return from_kinds(k, lambda i: letters[i % len(letters)] == "L", layers)


def first_of(step: int) -> Rule:
    """Return a rule with full attention in the first layer of each group of fixed size."""
    return lambda k, layers: from_kinds(k, lambda i: i % step != 0, layers)


def llama4(k: Keys, layers: int) -> list[Spanned]:
    """
    Return the spans of Llama 4: layers without rotary embedding (marked 0), by default every fourth, are full; others
    are chunked, if chunks exist.
    """
    names = named(k, layers)
    chunk = k.maybe("attention_chunk_size") or 0
    if names:
        return by_name(k, [name if chunk or name != "chunked_attention" else "full_attention" for name in names])
    step = k.count("no_rope_layer_interval", default=4)
    marks = k.numbers("no_rope_layers") or [int((i + 1) % step != 0) for i in range(layers)]
    if len(marks) != layers:
        raise k.refuse("no_rope_layers", f"the list has {len(marks)} items for {layers} layers")
    return [("chunked", chunk) if mark and chunk else FULL for mark in marks]


def positions(k: Keys) -> int:
    """Return the maximum number of positions for attention, under the key's various names; 0 if the model has no limit."""
    names = (
        "max_position_embeddings",
        "model_max_length",
        "max_sequence_length",
        "seq_length",
        "n_positions",
        "max_seq_len",
    )
    for name in names:
        value = k.raw(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST:
            return value
    return 0
