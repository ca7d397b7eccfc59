"""The model of a deployment (generated, fetched, in a folder, or named): its place, config, shape and fingerprint."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pytest_longctx import paths, toml
from pytest_longctx.deployments import shape, trained_model
from pytest_longctx.deployments.deployment import Model
from pytest_longctx.deployments.random_models import RANDOM_GQA, TINY_LLAMA4, make_random_gqa, make_tiny_llama4
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.errors import ModelError, unknown
from pytest_longctx.probe import checkpoint
from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from pytest_longctx.shapes.rotary import is_scaled

_CONFIG_BYTES: Final = 16 * 2**20
"""Largest config.json that is read. One with a table of quantised layers has up to 1 MB."""

_MADE: Mapping[str, tuple[Callable[[Path], None], Mapping[str, Any]]] = {
    "tiny-llama4": (make_tiny_llama4, TINY_LLAMA4),
    "random-gqa": (make_random_gqa, RANDOM_GQA),
    **checkpoint.MADE,
    **{name: (make, trained_model.SMOLLM2_CONFIG) for name, make in trained_model.MADE.items()},
}

MADE: Mapping[str, Callable[[Path], None]] = MappingProxyType({name: make for name, (make, _) in _MADE.items()})
"""Functions that make the models which a deployment requests as ``make = "..."``."""

MADE_CONFIGS: Mapping[str | None, Mapping[str, Any]] = MappingProxyType(
    {name: config for name, (_, config) in _MADE.items()}
)
"""Functions that return the ``config.json`` of models that are generated, so that their shape is known before."""


def locate(model: Model) -> str:
    """Return the model argument for the engine: a folder, which is generated if necessary, or a name. Raises `ModelError`."""
    if model.make is not None:
        if model.make not in MADE:
            raise ModelError(unknown("made model", model.make, MADE))
        folder = paths.kept() / "models" / model.make
        MADE[model.make](folder)
        return str(folder)
    if model.path is not None:
        folder = Path(model.path).expanduser()
        if folder.suffix == ".gguf" and folder.is_file():
            return str(folder.resolve())
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model {model.name!r} is not at {folder}\n"
                f"  checked  {folder / 'config.json'} ({'no such file' if folder.is_dir() else 'no such folder'})\n"
                "  try      correct the path in the deployment's [model]"
            )
        return str(folder.resolve())
    return model.id or model.name


@dataclass(frozen=True, slots=True)
class Beyond:
    """A shape of a model that the predictors of memory and time cannot handle."""

    whole: ModelShape
    why: str
    """The part of the shape that the predictors cannot handle."""


def read_shape(model: Model) -> Shape | Beyond | NotUnderstood | None:
    """
    Return the shape of a deployment's *model*: generated, known by name, or from the config in its folder; None without
    a config.

    A config.json that cannot be read is no error, because it concerns one model only. Raises `ModelError` for an
    unknown name.
    """
    if model.make in MADE_CONFIGS:
        return _of_made(MADE_CONFIGS[model.make])
    if model.shape is not None:
        if model.shape not in shape.known():
            raise ModelError(unknown("shape", model.shape, shape.known()))
        return shape.known()[model.shape]
    if model.path is None:
        return None
    config = config_of(model.path)
    try:
        stamp = (config.stat().st_mtime_ns, config.stat().st_size)
    except OSError:
        return None
    return _read_config(config, stamp)


def _of_made(config: Mapping[str, Any]) -> Shape | Beyond | NotUnderstood:
    """Return the shape of a generated model, which may be of a family that the predictors cannot handle."""
    found = read(config)
    if isinstance(found, ModelShape) and (why := shape.not_plain(found)):
        return Beyond(found, why)
    return found if isinstance(found, NotUnderstood) else shape.from_config(config)


def shape_of(model: Model) -> Shape | None:
    """Return the shape of a deployment's *model*; None if it is unknown, or if the predictors cannot handle it."""
    found = read_shape(model)
    return found if isinstance(found, Shape) else None


def config_of(path: str) -> Path:
    """Return the path of config.json in the model folder *path* of a deployment. *path* may also be that file."""
    given = Path(path).expanduser()
    return given if given.suffix == ".json" else given / "config.json"


@lru_cache(maxsize=256)
def _read_config(path: Path, stamp: tuple[int, int]) -> Shape | Beyond | NotUnderstood:
    """
    Return the shape of the model whose config.json is at *path*. *stamp*, the key of the cache, changes with the file's
    content.
    """
    del stamp
    beside = path.with_name("hf_quant_config.json")
    return from_json(read_json(path), read_json(beside) if beside.is_file() else None)


def from_json(config: Any, quantised: Any = None) -> Shape | Beyond | NotUnderstood:
    """Return the shape of a model from its *config*. *quantised* is the content of the ``hf_quant_config.json`` beside it."""
    for each in (config, quantised):
        if isinstance(each, NotUnderstood):
            return each
    found = read(config, quantised)
    if isinstance(found, NotUnderstood):
        return found
    if why := shape.uncounted(found):
        return Beyond(found, why)
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    return shape.of(found, architecture, positions_scaled=is_scaled(config))


def read_json(path: Path) -> Any:
    """Return the content of a model's JSON file at *path*, or `NotUnderstood` if the file is not JSON."""
    try:
        return json.loads(
            toml.bytes_of(path, _CONFIG_BYTES).decode("utf-8")
        )  # as engines do: no other encoding, no mark
    except (OSError, ValueError, RecursionError) as problem:
        return NotUnderstood(path.name, f"not valid JSON ({type(problem).__name__}: {problem})"[:300])


def fingerprint(model: Model, located: str) -> str:
    """
    Return one line that identifies the model: its name, the origin of its weights, and a hash of its config if the
    config is known.

    A trained model that was made here has its published name. The hash is the first 12 hex digits of the SHA-256 of
    ``config.json``.
    """
    config = Path(located) / "config.json"
    known = f", config {hashlib.sha256(config.read_bytes()).hexdigest()[:12]}" if config.is_file() else ""
    return f"{model.name} ({trained_model.title(located) or f'{model.weights} weights'}{known})"
