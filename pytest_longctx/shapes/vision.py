"""Encoders of a multimodal model: vision transformers are counted, other encoders are reported as not counted."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pytest_longctx.shapes.config_keys import Keys, class_defaults
from pytest_longctx.shapes.refusal import MisreadError

_GLM4V = ("glm4v", "glm4v_moe", "glm46v")

TOWERS = ("vision_config", "audio_config", "vision_tower_config", "sound_config", "embd_layer")

GATED = frozenset(
    {"pixtral", "gemma4_vision", "qwen2_5_vl", "qwen2_5_omni", "mistral3", "exaone4_5", "glm5_next", *_GLM4V}
)
"""Types whose feed-forward layers have three matrices."""


_OTHER = re.compile(r"(^|_)(vision|visual|vit|image|img|audio|speech|tower|resampler|perceiver)(_|$)")
"""Other names of tables that describe an encoder."""
_NAMED = re.compile(r"(vision|image|audio|speech)_tower$|(vision|audio)_model_id$")
"""Names of keys that only name an encoder; its sizes are elsewhere."""


def perceives(config: Mapping[str, Any]) -> bool:
    """
    Return whether *config* describes a vision or audio encoder besides the text model, under any of the known key
    names.
    """
    return any(key in config for key in TOWERS) or bool(_others(config))


def _others(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that describe encoders and that no reader of this module knows."""
    return [key for key, value in config.items() if key not in TOWERS and value and _describes(key, value)]


def _describes(key: str, value: object) -> bool:
    """Return whether the *value* of a key is a table that describes an encoder, or the name of an encoder."""
    return (
        bool(_OTHER.search(key)) if isinstance(value, Mapping) else isinstance(value, str) and bool(_NAMED.search(key))
    )


def towers(config: Mapping[str, Any], text_hidden: int) -> tuple[int | None, tuple[str, ...]]:
    """
    Return the number of parameters of the encoders, within a few percent, with notes. None means that an encoder is not
    counted.
    """
    total: int | None = 0
    notes: list[str] = []
    if flat := _FLAT.get(str(config.get("model_type"))):
        found = flat(Keys(config), text_hidden)
        return found, ("the vision and audio encoders are not counted",) if found is None else ()
    for key in _others(config):
        notes.append(f"{key} is not counted")
        total = None
    for key in TOWERS:
        table = config.get(key)
        if not isinstance(table, Mapping) or not table:
            continue
        found = _counted(_whole(table, key, config), config, text_hidden, key)
        if found is None:
            notes.append(f"{key} is not counted")
            total = None
        elif total is not None:
            total += found
    if not any(config.get(key) for key in TOWERS) and not notes:
        notes.append("there is no vision_config, so the vision encoder is not counted")
        total = None
    return total, tuple(notes)


def _whole(table: Mapping[str, Any], key: str, config: Mapping[str, Any]) -> Keys:
    """
    Return an encoder's *table* with the defaults of its class. For some models, the outer ``model_type`` decides the
    class, not that of the encoder.
    """
    kind = _TOWER_OF.get(str(config.get("model_type")), table.get("model_type")) if "vision" in key else None
    if kind not in class_defaults():
        return Keys(table, prefix=f"{key}.")
    return Keys({**table, "model_type": kind}, class_defaults()[str(kind)], f"{key}.")


_TOWER_OF: Mapping[str, str] = {"gemma4": "gemma4_vision"}
"""The type of the encoder, by the type of a multimodal model that supports only this encoder."""


def _counted(k: Keys, config: Mapping[str, Any], text_hidden: int, key: str) -> int | None:
    try:
        if "vision" in key:
            return _transformer(k, config, text_hidden)
        encoder = _AUDIO_ENCODERS.get(str(k.raw("model_type")))
        return encoder(k, text_hidden) if encoder else None
    except MisreadError:
        return None


def _phi4mm(k: Keys, text_hidden: int) -> int | None:
    """
    Return the number of parameters of Phi-4 multimodal's encoders: SigLIP, whose sizes the class knows, and a Conformer
    of 80 mel bins; three projections of two matrices. None if a size is missing.
    """
    table = k.table("audio_processor")
    audio = table.table("config") if table else None
    if audio is None:
        return None
    try:
        dim, units, blocks = (audio.count(name) for name in ("attention_dim", "linear_units", "num_blocks"))
    except MisreadError:
        return None
    sight = 28 * (4 * 1152 * 1152 + 2 * 1152 * 4304) + 1152 * (1024 + 3 * 14 * 14)
    hearing = blocks * (8 * dim * dim + 6 * dim * units) + 12 * dim * dim
    return sight + hearing + (1152 + 2 * dim) * text_hidden + 3 * text_hidden * text_hidden


def _phi3_v(k: Keys, text_hidden: int) -> int | None:
    """
    Return the number of parameters of Phi-3 Vision's encoder: CLIP's ViT-L/14 for 336 pixels, four patches joined, two
    projections. None if not this encoder.
    """
    processor = k.table("img_processor")
    if processor is None or processor.raw("name") != "clip_vision_model" or processor.raw("image_dim_out") != 1024:
        return None
    sight = 24 * 12 * 1024 * 1024 + 1024 * (577 + 3 * 14 * 14)
    return sight + 4096 * text_hidden + text_hidden * text_hidden


_FLAT: Mapping[str, Callable[[Keys, int], int | None]] = {"phi4mm": _phi4mm, "phi3_v": _phi3_v}
"""Parameters of the encoders of model types whose class fixes the sizes, so the file does not state them."""


def _qwen2_audio(k: Keys, text_hidden: int) -> int:
    """Return the number of parameters of Whisper's encoder in Qwen2-Audio, with one projection."""
    hidden = k.count("d_model")
    positions = k.count("max_source_positions", default=1500) * hidden
    return _whisper(k, hidden, k.count("encoder_ffn_dim")) + positions + hidden * text_hidden


def _voxtral(k: Keys, text_hidden: int) -> int:
    """Return the number of parameters of Whisper's encoder in Voxtral, which projects four steps at once."""
    hidden, width = k.count("hidden_size"), k.count("intermediate_size")
    positions = k.count("max_source_positions") * hidden
    return _whisper(k, hidden, width) + positions + width * text_hidden + text_hidden * text_hidden


def _qwen_omni(k: Keys, text_hidden: int) -> int:
    """Return the number of parameters of Whisper's encoder in Qwen2.5-Omni, whose positions are computed."""
    hidden = k.count("d_model")
    return _whisper(k, hidden, k.count("encoder_ffn_dim")) + hidden * k.count("output_dim", default=text_hidden)


def _qwen3_omni(k: Keys, text_hidden: int) -> int:
    """
    Return the number of parameters of Qwen3-Omni's encoder: three convolutions in two dimensions before the blocks, two
    projections behind.
    """
    hidden, narrow = k.count("d_model"), k.count("downsample_hidden_size", default=480)
    bins = -(-k.count("num_mel_bins", default=128) // 8)
    convolutions = 9 * narrow * (1 + 2 * narrow) + narrow * bins * hidden
    behind = hidden * (hidden + k.count("output_dim", default=text_hidden))
    return _blocks(k, hidden, k.count("encoder_ffn_dim")) + convolutions + behind


def _whisper(k: Keys, hidden: int, width: int) -> int:
    return _blocks(k, hidden, width) + 3 * hidden * (k.count("num_mel_bins", default=128) + hidden)


def _blocks(k: Keys, hidden: int, width: int) -> int:
    return k.count("num_hidden_layers", "encoder_layers") * (
        4 * hidden * hidden + 2 * hidden * width + 9 * hidden + width
    )


_AUDIO_ENCODERS: Mapping[str, Callable[[Keys, int], int]] = {
    "voxtral_encoder": _voxtral,
    "qwen2_5_omni_audio_encoder": _qwen_omni,
    "qwen2_audio_encoder": _qwen2_audio,
    "qwen3_omni_moe_audio_encoder": _qwen3_omni,
}
"""Parameters of an audio encoder, by its type."""


def _transformer(k: Keys, config: Mapping[str, Any], text_hidden: int) -> int | None:
    """
    Return the number of parameters of a vision encoder: attention and feed-forward blocks, patch embedding, projection
    to the text model. None if unknown.
    """
    outer = config.get("model_type")
    # Qwen 2 VL's hidden_size is the width behind the encoder.
    hidden = k.maybe("embed_dim", "hidden_size", "width", "vt_hidden_size", least=1)
    depth = k.maybe("num_hidden_layers", "depth", "layers", "vt_num_hidden_layers", least=1)
    width = k.maybe("intermediate_size", "vt_intermediate_size", least=1)
    ratio = k.raw("mlp_ratio")
    if width is None and isinstance(ratio, int | float) and hidden and 0 < ratio < 100:
        width = int(ratio * hidden)
    if not hidden or not depth or not width or depth > 1000:
        return None
    if outer in _GLM4V:  # what is called intermediate_size is of the projection behind the blocks
        width = k.count("out_hidden_size")
    matrices = 3 if {str(outer), str(k.raw("model_type"))} & GATED else 2
    blocks = depth * (_attention(k, hidden) + matrices * hidden * width + 9 * hidden + width)
    behind = _squeezed(Keys(config), outer, hidden, text_hidden) or _bridge(k, outer, hidden, text_hidden)
    pools = str(k.raw("model_type")).startswith("siglip") and k.raw("vision_use_head") is not False
    head = 4 * hidden * hidden + 2 * hidden * width if pools else 0
    return blocks + _embedding(k, hidden) + behind + head


def _attention(k: Keys, hidden: int) -> int:
    heads = k.maybe("num_heads", "num_attention_heads") or 0
    groups = k.maybe("num_key_value_heads") or heads
    return 2 * hidden * hidden + (2 * hidden * (hidden * groups // heads) if heads else 2 * hidden * hidden)


def _embedding(k: Keys, hidden: int) -> int:
    """
    Return the number of parameters of a vision encoder's embedding: the projection of a patch, and a table of
    positions.
    """
    patch, image = _side(k, "patch_size") or 14, _side(k, "image_size") or 0
    channels, frames = k.maybe("in_channels", "in_chans", "num_channels") or 3, k.maybe("temporal_patch_size") or 1
    rotary = k.raw("model_type") == "pixtral" or k.raw("position_embedding_type") == "rope"
    rows = k.maybe("num_position_embeddings") or (0 if rotary else (image // max(patch, 1)) ** 2)
    rows = 2 * (k.maybe("position_embedding_size") or 0) or rows
    return hidden * (channels * frames * patch * patch + min(rows, 1 << 20))


def _side(k: Keys, key: str) -> int | None:
    """Return the length of a side, which some configs write twice; None if missing."""
    value = k.raw(key)
    if isinstance(value, list | tuple) and value and all(each == value[0] for each in value):
        return Keys({key: value[0]}).maybe(key)
    return k.maybe(key)


def _mistral3_join(k: Keys, hidden: int, text_hidden: int) -> int:
    """Return the number of parameters between encoder and text of Mistral 3: merged patches, then two projections."""
    side = k.count("spatial_merge_size", default=2)
    return hidden * side * side * hidden + hidden * text_hidden + text_hidden * text_hidden


def _glm4v_old_join(k: Keys, hidden: int, text_hidden: int) -> int:
    """
    Return the number of parameters between encoder and text of GLM-4V: a convolution joins four patches, then a gated
    layer as wide as the layers of the text model.
    """
    return 4 * hidden * text_hidden + text_hidden * text_hidden + 3 * text_hidden * k.count("ffn_hidden_size")


def _minimax_join(k: Keys, hidden: int, text_hidden: int) -> int:
    """
    Return the number of parameters between encoder and text of MiniMax M3: projections of each patch, then of four
    together.
    """
    width = k.count("projector_hidden_size", default=text_hidden)
    return hidden * width + text_hidden * width * 2 + k.count("merged_hidden_size", default=4 * text_hidden) * width


_JOINS_OF_WHOLE: Mapping[str, Callable[[Keys, int, int], int]] = {
    "mistral3": _mistral3_join,
    "chatglm": _glm4v_old_join,
    "minimax_m3_vl": _minimax_join,
}
"""Parameters of the projections whose sizes are in the whole config, by its type, from the widths of encoder and text."""


def _squeezed(k: Keys, outer: object, hidden: int, text_hidden: int) -> int:
    """
    Return the number of parameters of the projections of model types whose sizes are in the whole config; 0 of other
    types.
    """
    if outer in ("smolvlm", "idefics3"):  # shuffles patches into channels
        return hidden * k.count("scale_factor", default=2) ** 2 * text_hidden
    layers = k.raw("vision_feature_layer")
    if (
        outer in ("llava", "llava_next", "llava_next_video") and isinstance(layers, list) and layers
    ):  # reads several layers side by side
        return (hidden * len(layers) + text_hidden) * text_hidden
    if join := _JOINS_OF_WHOLE.get(str(outer)):
        return join(k, hidden, text_hidden)
    if outer not in ("lfm2_vl", "cohere2_vision", "aya_vision"):
        return 0
    side = k.count("downsample_factor", default=2)
    width = k.count("projector_hidden_size", "alignment_intermediate_size", default=text_hidden)
    narrow = width if outer == "lfm2_vl" else width // 2  # one half gates the other
    return hidden * side * side * width + narrow * text_hidden


def _glm_join(k: Keys, merged: int, _: int) -> int:
    """
    Return the number of parameters between encoder and text of GLM: a convolution that merges, a projection, and a
    gated layer. Newer files have a separate key for its width.
    """
    behind, width = k.count("out_hidden_size"), k.count("projection_intermediate_size", "intermediate_size")
    return merged * behind + behind * behind + 3 * behind * width


def _ernie_join(k: Keys, merged: int, text_hidden: int) -> int:
    """Return the number of parameters between encoder and text of ERNIE 4.5 VL: joined patches, then joined frames."""
    return merged * merged * (3 + (k.maybe("temporal_merge_size") or 2)) + merged * text_hidden


def _qwen2_join(k: Keys, merged: int, text_hidden: int) -> int:
    return merged * (merged + (k.maybe("hidden_size") or text_hidden))


def _llama4_join(k: Keys, _: int, text_hidden: int) -> int:
    """
    Return the number of parameters between encoder and text of Llama 4: patches shuffled into channels, two layers, and
    a projection.
    """
    behind, out = k.count("projector_output_dim", default=4096), k.count("vision_output_dim", default=7680)
    shuffled = k.count("intermediate_size")
    return shuffled * k.count("projector_input_dim", default=4096) + behind * behind + out * text_hidden


_JOINS: Mapping[str, Callable[[Keys, int, int], int]] = {
    "llama4": _llama4_join,
    **dict.fromkeys((*_GLM4V, "glm5_next"), _glm_join),
    **dict.fromkeys(("ernie4_5_vl_moe", "ernie4_5_moe_vl"), _ernie_join),
    "qwen2_vl": _qwen2_join,
    "paddleocr_vl": lambda _, merged, text_hidden: merged * (merged + text_hidden),
}
"""Parameters of the projection behind an encoder, by the type of the whole, from the width of merged patches and of the text."""


def _bridge(k: Keys, outer: object, hidden: int, text_hidden: int) -> int:
    """
    Return the number of parameters of a vision encoder's projection to the text model. Qwen merges patches, once more
    for each deep layer.
    """
    side = k.maybe("spatial_merge_size") or 2
    merged = hidden * side * side
    out = k.maybe("out_hidden_size")
    if join := _JOINS.get(str(outer)):
        return join(k, merged, text_hidden)
    if out:
        deep = k.sequence("deepstack_visual_indexes") or ()
        return (1 + len(deep)) * merged * (merged + out)
    if outer in ("llava", "llava_next", "llava_next_video", "llava_onevision", "internvl", "internvl_chat"):
        return (merged if "internvl" in str(outer) else hidden) * text_hidden + text_hidden * text_hidden
    return merged * (merged + text_hidden) if outer in ("kimi_k25", "kimi_vl") else hidden * text_hidden
