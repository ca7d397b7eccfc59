"""Validation of TOML files. An unknown key is an error that names the nearest known key."""

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from pytest_longctx.errors import TableError, unknown

T = TypeVar("T", bound=BaseModel)


class Table(BaseModel):
    """A table of a TOML file: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _version_range(text: str) -> str:
    """Return *text* if it is a PEP 440 range; raises ValueError otherwise."""
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text!r} is not a version range; write one as in '>=0.12,<0.14'") from None
    return text


LISTED = BeforeValidator(_listed)
"""Accepts a TOML array as a tuple."""

Names = Annotated[tuple[str, ...], LISTED]
"""One name or a list of names."""

VersionRange = Annotated[str, AfterValidator(_version_range)]
"""A PEP 440 range such as ``>=0.12,<0.14``."""


def load(path: Path, kind: type[T]) -> T:
    """Read the file at *path* as a *kind*. Raises `TableError` that names the file and every invalid key."""
    return check(read(path), kind, str(path))


def read(path: Path) -> dict[str, Any]:
    """Read the file at *path* without validation. Raises `TableError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such file") from None
    except OSError as problem:
        raise TableError(f"{path}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise TableError(f"{path}: not valid TOML: {problem}") from None


def digest(table: BaseModel) -> str:
    """Return the first 12 hex digits of the SHA-256 of *table* as JSON, defaults included."""
    return hashlib.sha256(table.model_dump_json().encode()).hexdigest()[:12]


def check(content: dict[str, Any], kind: type[T], where: str) -> T:
    """Validate *content* as a *kind*; *where* names its origin in the error. Raises `TableError`."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        lines = [f"{where}: {_complaint(error, kind)}" for error in problem.errors()]
        raise TableError("\n".join(lines)) from None


def _complaint(error: Any, kind: type[BaseModel]) -> str:
    place = [str(part) for part in error["loc"]]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        return f"{key}: {unknown('key', place[-1], _fields_at(kind, place[:-1]))}"
    if error["type"] == "missing":
        return f"{key}: is required and missing"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" else f" (found {error['input']!r})"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _fields_at(kind: type[BaseModel], place: list[str]) -> Iterator[str]:
    """Return the known keys at *place* inside *kind*."""
    for part in place:
        field = kind.model_fields.get(part)
        if field is None:  # key of a table entry, as in bounds.ttft_s or signature.3
            continue
        inner = _model_in(field.annotation)
        if inner is None:
            return
        kind = inner
    yield from (field.alias or name for name, field in kind.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
    return None


def in_range(version: str, wanted: str) -> bool:
    """
    Whether *version* is in the PEP 440 range *wanted*. A local part is ignored. An invalid version is in no range.

    >>> in_range("0.12.0+cu130", "==0.12.*"), in_range("0.5.6.post2", ">=0.5.6,<0.6")
    (True, True)
    """
    try:
        return SpecifierSet(wanted).contains(Version(version.partition("+")[0]), prereleases=True)
    except InvalidVersion:
        return False


def overlap(one: str | None, other: str | None) -> bool:
    """
    Whether a version named by either PEP 440 range is in both. A missing range overlaps with everything.

    >>> overlap(">=0.12,<0.14", "==0.12.*"), overlap(">=0.12,<0.14", ">=0.25")
    (True, False)
    >>> overlap("<0.11", "<0.13"), overlap(">0.11", ">0.13")
    (True, True)
    """
    if one is None or other is None:
        return True
    named = {each.version.removesuffix(".*") for text in (one, other) for each in SpecifierSet(text)}
    named |= {"0", "999999"}  # two ranges that are open on the same side overlap there
    return any(in_range(version, one) and in_range(version, other) for version in named)
