"""Write a finding or a deployment as a TOML file that loads to the same table."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import tomli_w
from pydantic import BaseModel

from pytest_longctx import toml
from pytest_longctx.errors import UsageError

T = TypeVar("T", bound=BaseModel)


def text_of(one: BaseModel, comment: str = "") -> str:
    """
    Return the TOML text of the table *one* without default values, after a *comment* of one or more lines.

    Raises `TableError` if the text would not load to an equal table.
    """
    content = one.model_dump(mode="python", by_alias=True, exclude_defaults=True, exclude_none=True)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    text = head + tomli_w.dumps(content)
    again = toml.check(tomllib.loads(text), type(one), "the file to write")
    if again != one:
        names = (name for name in type(one).model_fields if getattr(again, name) != getattr(one, name))
        raise UsageError(
            f"internal error: {', '.join(names) or 'a value'} changes when it is written as TOML; no file was written. "
            "Please report this bug"
        )
    return text


def write_new(files: Mapping[Path, str]) -> None:
    """Write all *files*, and create their folders. Raises `UsageError`, and writes nothing, if one of the files exists."""
    there = [str(path) for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(
            f"{', '.join(there)}: already exists; existing files are never overwritten, so nothing was written"
        )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
