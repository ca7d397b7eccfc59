"""
Whether an engine version serves an architecture of a config.json, by a class of its own or by its fallback.

From vLLM ``model_executor/models/registry.py`` and ``models/transformers/base.py`` (0.11.0 to 0.33.0), and SGLang
``srt/models/registry.py`` and ``srt/model_loader/utils.py`` (0.5.6 to 0.5.23).
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_longctx.backends import transformers
from pytest_longctx.backends.versions import EngineVersion

Form = Literal["attention_backend", "attention_interface", "neither"]
_FORMS: tuple[Form, ...] = ("attention_backend", "attention_interface", "neither")


class Lacking(NamedTuple):
    """The reason why an engine version without a class for an architecture refuses it, or may serve it differently."""

    certain: bool
    """Whether the engine certainly refuses the start. Otherwise, the result of the fallback to Transformers is unknown."""
    said: str
    advice: str = ""
    phase: str = "config"


class Model(NamedTuple):
    """The properties of a model on which an engine's fallback depends."""

    names: tuple[str, ...]
    """The names in ``architectures``."""
    code: Mapping[str, Any]
    """The table ``auto_map``: classes that come with the model."""
    keeps_state: bool
    """Whether layers keep a state in place of a KV cache."""


@cache
def classes() -> tuple[str, Mapping[str, Form]]:
    """
    Return the recorded version of Transformers, and the form of each of its classes that generates text.

    A class that is missing or not compatible in it is so in earlier versions too, because later versions only
    added classes.
    """
    found = tomllib.loads((Path(transformers.__file__).parent / "classes.toml").read_text(encoding="utf-8"))
    return found["version"], {name: form for form in _FORMS for name in found[form]}


def model_of(config: Mapping[str, Any], *, keeps_state: bool) -> Model | None:
    """Return the properties of the model of a *config*; None if the config names no architecture."""
    listed, code = config.get("architectures"), config.get("auto_map")
    names = tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list | tuple) else ()
    return Model(names, code if isinstance(code, Mapping) else {}, keeps_state) if names else None


_SUFFIXES = (
    *("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel", "ForTextEncoding", "EmbeddingModel"),
    *("ForSequenceClassification", "ForTokenClassification", "ForAudioClassification", "ForImageClassification"),
    *("ForVideoClassification", "ClassificationModel", "ForRewardModeling", "RewardModel", "Model"),
)
"""Ends of names that vLLM exchanges to find a class that it converts (``config/model.py``)."""
_RENAMED: Mapping[str, str] = {
    "Olmo3ForCausalLM": "Olmo2ForCausalLM",
    "LongcatCausalLM": "LongcatFlashForCausalLM",
    "DeepseekOCR2ForCausalLM": "DeepseekOCRForCausalLM",
    "DeepseekVLV2ForCausalLM": "DeepseekVL2ForCausalLM",
    "Gemma3TextModel": "Gemma3ForCausalLM",
    "Qwen3_5Model": "Qwen3_5ForConditionalGeneration",
    "Qwen3_5TextModel": "Qwen3_5ForCausalLM",
}
"""Architectures that SGLang serves by a class of another name (``srt/configs``, ``srt/utils/hf_transformers``)."""


def has_class(row: EngineVersion, names: tuple[str, ...]) -> bool:
    """Return whether the version *row* has a class of its own for one of the architectures *names*."""
    if row.engine == "sglang":
        return any({name, _RENAMED.get(name, name)} & row.architectures for name in names)
    return any(base in row.architectures for name in names for base in (name, *_bases(name)))


def _bases(name: str) -> tuple[str, ...]:
    end = next((each for each in _SUFFIXES if name.endswith(each)), None)
    return tuple(name.removesuffix(end) + other for other in _SUFFIXES) if end else ()


def lacking(row: EngineVersion, model: Model, flags: Mapping[str, Any], env: Mapping[str, str]) -> Lacking | None:
    """
    Return how the version *row* treats *model* without a class for its architecture. None if a class exists, or if
    *flags* and *env* provide one.
    """
    asked = str(flags.get("model-impl", "auto")).lower()
    if asked not in ("auto", row.engine) or flags.get("model-class-overrides"):
        return None
    if env.get("SGLANG_EXTERNAL_MODEL_PACKAGE") or has_class(row, model.names):
        return None
    return _vllm(row, model, alone=asked == "vllm") if row.engine == "vllm" else _sglang(row, model)


def _within(row: EngineVersion) -> bool:
    """Return whether the range of Transformers that *row* requires ends at or before the recorded version."""
    recorded = Version(classes()[0])
    bounds = [each for each in SpecifierSet(row.transformers) if each.operator in ("<", "<=", "==")]
    return any(Version(each.version) <= recorded for each in bounds)


_FROM_INTERFACE = Version("0.30")
"""
vLLM version from which a class with only the interface is accepted, and a layer that does not use the interface is
refused.
"""


def _vllm(row: EngineVersion, model: Model, *, alone: bool) -> Lacking:
    name, later = model.names[0], Version(row.version) >= _FROM_INTERFACE
    last = next((row.removed[each] for each in model.names if each in row.removed), None)
    advice = f"vLLM {last}, the last version with a class for {name}" if last else ""
    without = f"vLLM {row.version} has no class for {name}{f', which it had until {last}' if last else ''}"
    if alone:
        return Lacking(certain=True, said=f"{without}, and --model-impl vllm allows no other", advice=advice)
    form, code = classes()[1].get(name), any(key.startswith("AutoModel") for key in model.code)
    taken = code if form is None else form == "attention_backend" or (form == "attention_interface" and later)
    if taken and model.keeps_state and later:
        said = "its backend for classes of Transformers refuses layers that keep a state"
        return Lacking(certain=True, said=f"{without}, and {said}", advice=advice, phase="load")
    if taken:
        which = "the model's own code" if form is None else "the class of Transformers"
        return Lacking(certain=False, said=f"{without}; it may serve {which}, which is not modelled", advice=advice)
    if last is not None or (form is not None and _within(row)):
        return Lacking(certain=True, said=f"{without}, and {_no_other(form)}", advice=advice)
    return Lacking(
        certain=False,
        said=f"{without}; whether Transformers or a plugin has one that it takes is not known",
        advice=advice,
    )


def _sglang(row: EngineVersion, model: Model) -> Lacking:
    name = model.names[0]
    without = f"SGLang {row.version} has no class for {name}"
    form = classes()[1].get(name)
    if form == "attention_backend":
        return Lacking(certain=False, said=f"{without}; it may serve the class of Transformers, which is not modelled")
    if form is None and "AutoModel" in model.code:
        return Lacking(certain=False, said=f"{without}; it may serve the model's own code, which is not modelled")
    if not _within(row) or not _generates(name):
        return Lacking(certain=False, said=f"{without}; whether Transformers has one that it takes is not known")
    return Lacking(certain=True, said=f"{without}, and {_no_other(form)}")


def _no_other(form: Form | None) -> str:
    return "Transformers has none" if form is None else "does not take the one of Transformers"


def _generates(name: str) -> bool:
    """Return whether a class of Transformers generates text. Only these classes are recorded."""
    return name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel"))
