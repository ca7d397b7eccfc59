"""Convert a Hugging Face config.json to the shape of its model, or name the key that is not understood."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_longctx.shapes import rotary, vision, windows
from pytest_longctx.shapes.config_keys import Keys, class_defaults, shown
from pytest_longctx.shapes.families import classes, tied_embeddings
from pytest_longctx.shapes.families.compressed import COMPRESSED
from pytest_longctx.shapes.families.differing_layers import SHAPED
from pytest_longctx.shapes.families.expert_layers import MIXED
from pytest_longctx.shapes.families.hybrid import HYBRID
from pytest_longctx.shapes.families.hyper_connections import STREAMS
from pytest_longctx.shapes.families.latent import LATENT
from pytest_longctx.shapes.families.older import OLDER
from pytest_longctx.shapes.families.pattern import PATTERN
from pytest_longctx.shapes.families.plain import PLAIN
from pytest_longctx.shapes.families.short_convolutions import CONVOLVED
from pytest_longctx.shapes.model import VALUE_BYTES, Body, ModelShape
from pytest_longctx.shapes.refusal import MisreadError, NotUnderstood
from pytest_longctx.shapes.schemes import read_scheme, with_experts

FAMILIES: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {**PLAIN, **MIXED, **LATENT, **SHAPED, **HYBRID, **PATTERN, **OLDER, **COMPRESSED, **STREAMS, **CONVOLVED}
)
"""Text models, by ``model_type``."""

TEXT_OF: Mapping[str, str] = MappingProxyType(
    {
        "gemma3": "gemma3_text",
        "gemma3n": "gemma3n_text",
        "gemma4": "gemma4_text",
        "llama4": "llama4_text",
        "qwen3_vl": "qwen3_vl_text",
        "qwen3_vl_moe": "qwen3_vl_moe_text",
        "qwen3_5": "qwen3_5_text",
        "qwen3_5_moe": "qwen3_5_moe_text",
        "qwen2_vl": "qwen2_vl_text",
        "qwen2_5_vl": "qwen2_5_vl_text",
        "minimax_m3_vl": "minimax_m3_vl_text",
        "glm4v": "glm4v_text",
        "glm4v_moe": "glm4v_moe_text",
        "mistral3": "mistral",
        "exaone4_5": "exaone4_5_text",
        "qwen2_5_omni": "qwen2_5_omni_text",
        "qwen3_omni_moe": "qwen3_omni_moe_text",
        "voxtral": "llama",
        "qwen2_audio": "qwen2",
        "paligemma": "gemma",
        "paddleocr_vl": "paddleocr_vl_text",
        "step3p7": "step3p7",
        "glm5_next": "glm5_next_text",
        "qwen4_exp": "qwen4_exp_text",
        "inkling_mm_model": "inkling_text",
        "ernie4_5_vl_moe": "ernie4_5_vl_moe_text",
        "ernie4_5_moe_vl": "ernie4_5_vl_moe_text",
        "inkling_model": "inkling_text",
    }
)
"""Multimodal models: the type of their text part, where the part itself does not say it."""

WRAPPERS = frozenset(
    {
        *TEXT_OF,
        "kimi_k25",
        "kimi_k3",
        "llava",
        "llava_next",
        "llava_next_video",
        "llava_onevision",
        "glm46v",
        "internvl",
        "pixtral",
        "lfm2_vl",
        "mistral3",
        "kimi_vl",
        "internvl_chat",
        "smolvlm",
        "idefics3",
        "aya_vision",
        "cohere2_vision",
    }
)
"""Types that hold a text model in ``text_config``."""

ENCODER_DECODERS = frozenset(
    """t5 mt5 umt5 bart mbart whisper pegasus marian m2m_100 blenderbot blenderbot-small led longt5 bigbird_pegasus
    encoder_decoder
    prophetnet fsmt nllb-moe switch_transformers speech_to_text seamless_m4t t5gemma t5gemma2 plbart mvp bert roberta
    xlm-roberta distilbert modernbert albert electra deberta deberta-v2 camembert nomic_bert eurobert""".split()  # noqa: SIM905
)

UNMODELLED: Mapping[str, str] = MappingProxyType(
    {
        "mllama": "its cross_attention_layers cache states of images, and vLLM has not served it since 0.10.2",
        "zaya": "its attention (CCA) keeps states of convolutions that no engine here caches",
    }
)
"""Types that are known and not supported, and why."""

ALIASES: Mapping[str, str] = MappingProxyType({"MiniMaxText01": "minimax_text_01", "MiniMaxM1": "minimax_m1"})


def read(config: Mapping[str, Any], quantised: Mapping[str, Any] | None = None) -> ModelShape | NotUnderstood:
    """
    Return the model shape of *config*, or the key that is not understood. Raises no exception, whatever the content.

    *quantised* is the content of ``hf_quant_config.json`` beside it, an older file of ModelOpt that engines also read.
    """
    try:
        return _read(config, quantised)
    except MisreadError as error:
        return error.refusal
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        # A combination that no check above has foreseen; the model is refused, its neighbours are planned.
        return NotUnderstood("config.json", f"this file could not be read ({type(error).__name__}: {error})"[:300])


def _read(config: Mapping[str, Any], quantised: Mapping[str, Any] | None) -> ModelShape:
    if not isinstance(config, Mapping):
        raise MisreadError("config.json", f"must be a table; found {shown(config)}")
    config = _thinker(config)
    outer = Keys(config)
    if outer.flag("is_encoder_decoder"):
        raise MisreadError("is_encoder_decoder", "encoder-decoder models are not supported")
    text, name = _text(config, outer)
    nested = text is not config
    text = tied_embeddings.settled(name, text)
    prefix = "text_config." if nested else ""
    # A class that writes a part of a config writes its type and what differs from its defaults.
    keys = Keys(text, class_defaults().get(name, {}), prefix, sparing=nested and "model_type" in text)
    family = _family(name)
    for part in (outer, keys):
        classes.check_causal(part)
    classes.check(outer, name, plain=name in PLAIN)
    classes.check_width(keys, name)
    body = family(keys)
    outside = classes.loaded(outer, body.outside)
    scheme = with_experts(read_scheme(_quantised(keys, outer, quantised)), keys)
    dtype, positions, drafts = _dtype(keys, outer), windows.positions(keys), windows.draft_layers(keys)
    notes = list(body.notes)
    if drafts and not body.draft:
        notes.append(f"{drafts} layers of multi-token prediction are not counted")
    rope_dim = rotary.dimension(keys, body, name)
    if key := keys.unread():
        value = text.get(key.removeprefix("text_config."))
        raise MisreadError(
            key, f"the value is {shown(value)}; memory may depend on this key, which is not supported for {name}"
        )
    towers, more = vision.towers(config, body.hidden) if nested or vision.perceives(config) else (0, ())
    parts = (name, body.hidden, body.vocabulary, positions, body.layers, outside, body.draft)
    return ModelShape(*parts, dtype, scheme, towers, (*notes, *more), rope_dim, rotary.stretch(keys))


def _thinker(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of an Omni model that engines serve as text: its thinker, without the talker."""
    part = config.get("thinker_config")
    if config.get("model_type") not in ("qwen2_5_omni", "qwen3_omni_moe") or not isinstance(part, Mapping):
        return config
    kept = {
        key: config[key]
        for key in ("model_type", "architectures", "quantization_config", "torch_dtype", "dtype", tied_embeddings.KEY)
        if key in config
    }
    return {**part, **kept}


def _family(name: str) -> Callable[[Keys], Body]:
    if name in FAMILIES:
        return FAMILIES[name]
    raise _unknown(name)


def _unknown(name: str) -> MisreadError:
    """Return the error about a *name* that belongs to no known family."""
    if name in UNMODELLED:
        return MisreadError("model_type", f"{shown(name)} is not supported: {UNMODELLED[name]}")
    encodes = name in ENCODER_DECODERS
    why = "encoder-decoder and encoder models are not supported" if encodes else "unknown model type"
    return MisreadError("model_type", f"{why}: {shown(name)}")


def _quantised(keys: Keys, outer: Keys, beside: Mapping[str, Any] | None) -> Keys:
    """Return the part of the config that holds the table of quantisation: the text part, the whole, or the file beside it."""
    for holder in (keys, outer):
        if holder.raw("quantization_config") or holder.raw("compression_config"):
            return holder
    return Keys({"quantization_config": {"quant_method": "modelopt", **beside}}) if beside else outer


def _text(config: Mapping[str, Any], outer: Keys) -> tuple[Mapping[str, Any], str]:
    """Return the text part of the config, and its model type."""
    name = outer.word("model_type")
    if name is None:
        raise MisreadError("model_type", _beside(config))
    part = next((config[key] for key in ("text_config", "llm_config", "language_config") if config.get(key)), None)
    if part is None:
        return config, ALIASES.get(name, TEXT_OF.get(name, name) if name not in FAMILIES else name)
    if not isinstance(part, Mapping):
        raise MisreadError("text_config", f"must be a table; found {shown(part)}")
    if name not in WRAPPERS and name not in FAMILIES:
        raise _unknown(name)
    inner = part.get("model_type")
    chosen = TEXT_OF.get(name) if inner is None else inner
    if not isinstance(chosen, str):
        raise MisreadError(
            "text_config.model_type", "this key is missing" if inner is None else f"the value is {shown(inner)}"
        )
    chosen = TEXT_OF.get(chosen, chosen) if chosen not in FAMILIES else chosen
    return {**part, **tied_embeddings.tie(name, config, part)}, ALIASES.get(chosen, chosen)


def _beside(config: Mapping[str, Any]) -> str:
    """Return why a config has no type: it describes a file that is loaded with a model, and names that model."""
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str):
        return "this key is missing"
    kind = "an adapter" if "peft_type" in config else "a part"
    return (
        f"this key is missing: the file describes {kind} of {shown(base)}; plan the config.json of that model instead"
    )


def _dtype(keys: Keys, outer: Keys) -> str:
    for holder in (keys, outer):
        for key in ("torch_dtype", "dtype"):
            value = holder.raw(key)
            if isinstance(value, str):
                word = value.removeprefix("torch.")
                if word not in VALUE_BYTES:
                    raise MisreadError(key, f"unknown dtype: {shown(value)}")
                return word
    return "bfloat16"
