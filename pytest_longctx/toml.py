"""Validation of TOML files. An unknown key is an error that names the nearest known key."""

import errno
import hashlib
import math
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

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
    """Return *text* of a TOML table if it is a PEP 440 version range; raises ValueError otherwise."""
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text!r} must be a version range, for example '>=0.12,<0.14'") from None
    return text


LISTED = BeforeValidator(_listed)
"""Accepts a TOML array as a tuple."""

Names = Annotated[tuple[str, ...], LISTED]
"""One name or a list of names."""

VersionRange = Annotated[str, AfterValidator(_version_range)]
"""A PEP 440 range such as ``>=0.12,<0.14``."""


_LARGEST_BYTES: Final = 4 * 2**20
"""Largest TOML file that is read. The largest here has 0.1 MB."""
_DEEPEST: Final = 32
_MOST_VALUES: Final = 1_000_000
"""Most keys and values of one file. A file of 4 MiB cannot have more, unless aliases repeat some."""
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
_SHOWN: Final = 200
"""Most characters of a key or a value in a message."""
_MOST_ERRORS: Final = 20
_DEEPEST_JSON: Final = 200
"""Levels of a value. Python 3.11 parses about 1,000 of JSON and 3.14 about 60,000, more than code can descend into."""


def load(path: Path, kind: type[T]) -> T:
    """Return the TOML file at *path* as a *kind*. Raises `TableError` that names the file and every invalid key."""
    return check(read(path), kind, str(path))


def refuse_deep(value: Any) -> None:
    """Raise `ValueError` if *value* of JSON has more levels than code can descend into."""
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [
            each
            for one in level
            if isinstance(one, (dict, list))
            for each in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError("JSON is nested too deeply")


def read(path: Path) -> dict[str, Any]:
    """Return the content of the TOML file at *path* without validation. Raises `TableError`."""
    try:
        content = tomllib.loads(bytes_of(path, _LARGEST_BYTES).decode("utf-8"))
        refuse_unsound(content)
    except FileNotFoundError:
        raise TableError(f"{path}: file not found") from None
    except OSError as problem:
        raise TableError(f"{path}: {problem.strerror}") from None
    except RecursionError:
        raise TableError(f"{path}: not valid TOML: it is nested too deeply") from None
    except ValueError as problem:  # also a path with NUL, text that is no UTF-8, and an integer of thousands of digits
        raise TableError(f"{path}: not valid TOML: {str(problem)[:_SHOWN]}") from None
    return content


def bytes_of(path: Path, most_bytes: int | None = None) -> bytes:
    """
    Return the bytes of the regular file at *path*, such as a TOML file.

    Raises `OSError` for a pipe or a device, which may have no end, and for a file of more than *most_bytes*.
    """
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode):
        known = "a folder" if stat.S_ISDIR(seen.st_mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"must be a regular file; found {known}", str(path))
    if most_bytes is not None and seen.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"the file has {seen.st_size:,} bytes; at most {most_bytes:,} are read", str(path))
    return path.read_bytes()


def refuse_unsound(content: Any, deepest: int = _DEEPEST) -> None:
    """
    Raise `ValueError` for values that TOML, YAML and JSON allow but that have no meaning in any table here.

    These are NUL, lone surrogates, infinity, integers of more than 64 bits, more than *deepest* levels, and aliases of
    YAML that stand for more than `_MOST_VALUES` values.
    """
    todo: list[tuple[str, Any, int]] = [("", content, 0)]
    for _ in range(_MOST_VALUES):
        if not todo:
            return
        key, value, depth = todo.pop()
        if depth > deepest:
            raise ValueError(f"{key[:_SHOWN]}: nested deeper than {deepest} tables and arrays")
        if isinstance(value, dict):
            # The key is cut, because each level of a deep table would otherwise copy the names of all levels above it.
            todo += [(f"{key[:_SHOWN]}.{name}".strip("."), each, depth + 1) for name, each in value.items()]
            todo += [(f"{key[:_SHOWN]}.{name}".strip("."), name, depth + 1) for name in value]
        elif isinstance(value, list):
            todo += [(key, each, depth + 1) for each in value]
        elif why := _unsound(value):
            raise ValueError(f"{key[:_SHOWN]}: {why}")
    if todo:
        raise ValueError(f"more than {_MOST_VALUES:,} values (an alias counts as the values that it stands for)")


def _unsound(value: object) -> str:
    """Return why *value* has no meaning in any table; empty if it has one."""
    if isinstance(value, str) and _NO_TEXT.search(value):
        return "a text with NUL or half of a character"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not finite"
    return "an integer of more than 64 bits" if isinstance(value, int) and abs(value) >= 2**63 else ""


def digest(table: BaseModel) -> str:
    """Return the first 12 hex digits of the SHA-256 of a validated *table* as JSON, defaults included."""
    return hashlib.sha256(table.model_dump_json().encode()).hexdigest()[:12]


def check(content: dict[str, Any], kind: type[T], where: str) -> T:
    """Return the validated TOML *content* as a *kind*. *where* names its origin in the error. Raises `TableError`."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        errors = problem.errors()
        lines = [f"{where}: {_complaint(error, kind)}" for error in errors[:_MOST_ERRORS]]
        lines += [f"{where}: and {len(errors) - _MOST_ERRORS:,} more errors"] if len(errors) > _MOST_ERRORS else []
        raise TableError("\n".join(lines)) from None


def _complaint(error: Any, kind: type[BaseModel]) -> str:
    place = [_cut(str(part)) for part in error["loc"]]
    key = ".".join(place)
    if error["type"] == "extra_forbidden":
        return f"{key}: {unknown('key', place[-1], _fields_at(kind, place[:-1]))}"
    if error["type"] == "missing":
        return f"{key}: is required and missing"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" else f" (found {_cut(repr(error['input']))})"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _fields_at(kind: type[BaseModel], place: list[str]) -> Iterator[str]:
    """Return the known TOML keys at *place* inside *kind*."""
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
    Return whether *version* is in the PEP 440 range *wanted*, without its local part. An invalid version is in no
    range.

    >>> in_range("0.12.0+cu130", "==0.12.*"), in_range("0.5.6.post2", ">=0.5.6,<0.6")
    (True, True)
    """
    try:
        return SpecifierSet(wanted).contains(Version(version.partition("+")[0]), prereleases=True)
    except InvalidVersion:
        return False


def overlap(one: str | None, other: str | None) -> bool:
    """
    Return whether a version named by either PEP 440 range is in both. A missing range overlaps with everything.

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
