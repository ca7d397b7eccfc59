"""The plan's result for an architecture for which the planned version of an engine has no class."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_longctx.backends import architectures, versions
from pytest_longctx.backends.architectures import Lacking, Model
from pytest_longctx.backends.versions import EngineVersion
from pytest_longctx.backends.vllm.settings import OF_QWEN_2
from pytest_longctx.plan.planned_server import NEWEST, Asked
from pytest_longctx.shapes import ModelShape


def lacking(asked: Asked, whole: ModelShape | None, kind: str) -> Lacking | None:
    """
    Return why the *asked* version has no class for the model on a device of *kind*; None if it has one, or if the version
    is not known.

    The newest recorded version, planned because none was named, is no reason for a refusal.
    """
    if not isinstance(asked.config, Mapping) or kind.startswith(("trn", "inf")):
        return None  # a Neuron device has its own list of models
    if found := _windows(asked.engine, asked.config, whole):
        return found
    model = architectures.model_of(asked.config, keeps_state=bool(whole and whole.states))
    if model is None:
        return None
    found = _by_version(asked, model)
    if found is not None and asked.said.startswith(NEWEST):
        return found._replace(certain=False)
    return found


def _windows(engine: str, config: Mapping[str, Any], whole: ModelShape | None) -> Lacking | None:
    """Return vLLM's refusal of a Qwen in which some layers have a window and ``max_window_layers`` is another number."""
    if engine != "vllm" or whole is None or whole.model_type not in OF_QWEN_2:
        return None
    text = config.get("text_config")
    first = {**config, **(text if isinstance(text, Mapping) else {})}.get("max_window_layers")
    if len({cache.window > 0 for cache, _ in whole.attentions}) < 2 or first == whole.layers:
        return None
    said = f"some layers of config.json have a window, and vLLM's class takes that only if max_window_layers is {whole.layers}"
    return Lacking(certain=True, said=said, phase="load")


def _by_version(asked: Asked, model: Model) -> Lacking | None:
    try:
        planned = Version(asked.version)
    except InvalidVersion:  # a range, of which nothing is recorded
        return None
    every = versions.recorded(asked.engine)
    before = next((each for each in reversed(every) if Version(each.version) <= planned), None)
    if before is not None and Version(before.version) == planned:
        return architectures.lacking(before, model, asked.flags, asked.env)
    after = next((each for each in every if Version(each.version) > planned), None)
    return _between(asked, model, before, after)


def _between(asked: Asked, model: Model, before: EngineVersion | None, after: EngineVersion | None) -> Lacking | None:
    """Judge a version by the adjacent recorded ones. Only a list that names the last version with a class proves its removal."""
    near = [each for each in (before, after) if each is not None]
    last = next((after.removed[name] for name in model.names if name in after.removed), None) if after else None
    if last is not None and after is not None:
        if Version(asked.version) <= Version(last):
            return None
        return architectures.lacking(replace(after, version=asked.version), model, asked.flags, asked.env)
    if all(architectures.has_class(each, model.names) for each in near):
        return None
    said = f"{asked.engine} {asked.version} is not recorded; whether it has a class for {model.names[0]} is not known"
    return Lacking(certain=False, said=said)
