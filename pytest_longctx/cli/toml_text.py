"""Write a finding or a deployment as a TOML file that loads to the same table."""

import datetime as dt
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from pytest_longctx import toml
from pytest_longctx.errors import UsageError

T = TypeVar("T", bound=BaseModel)


def text_of(one: BaseModel, comment: str = "") -> str:
    """
    The TOML text of the table *one*, without keys that have their default, after a *comment* of one or more
    lines.

    Raises `TableError` if the text would not load to an equal table.
    """
    content = one.model_dump(mode="python", by_alias=True, exclude_defaults=True)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    text = head + "\n".join(_lines(content, ())) + "\n"
    again = toml.check(tomllib.loads(text), type(one), "the file to write")
    if again != one:
        raise UsageError("the table cannot be written as TOML without a loss")
    return text


def _lines(content: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping) and value is not None}
    if place and plain:
        yield f"\n[{'.'.join(map(_key, place))}]"
    yield from (f"{_key(key)} = {_value(value)}" for key, value in plain.items())
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*place, key))


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else _text(name)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _text(value: str) -> str:
    """A basic string of TOML, whose escapes are those of JSON; TOML also escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_new(files: Mapping[Path, str]) -> None:
    """
    Write every one of *files*, and make their folders. Raises `UsageError`, and writes nothing, if one of them
    exists.
    """
    there = [str(path) for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{', '.join(there)}: already there, and never overwritten; nothing was written")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
