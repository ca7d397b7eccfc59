"""
The commands that documents publish, beside those that their deployments render.

Every difference has a reason, and every reason a difference: what was wrong in a document is marked where a reader looks for it.
"""

import ast
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pytest_longctx import toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import TableError, unknown

Options = Mapping[str, str]
"""Flags without dashes, under their usual names; the value of a bare one is empty."""

_SAME = {"tp": "tensor-parallel-size", "tp-size": "tensor-parallel-size", "model-path": "model"}
_EACH_RUN = frozenset({"host", "port", "served-model-name", "enable-metrics", "enable-cache-report"})
"""What differs in every pair: loopback, a free port, a name for the model, and counters to judge by."""


class Command(toml.Table):
    """A start as a document has it: a command line, or the ``LLM(...)`` of a script."""

    document: str
    where: str
    text: str
    deployment: str
    corrected: dict[str, str] = Field(default_factory=dict)
    """Why a flag is not as documented, by the flag's name without dashes."""


class Published(toml.Table):
    """The data file."""

    command: Annotated[tuple[Command, ...], toml.LISTED] = ()


class Difference(NamedTuple):
    """A flag that is not as documented; None: it is not there at all."""

    flag: str
    documented: str | None
    rendered: str | None
    why: str | None


def load(path: Path) -> tuple[Command, ...]:
    """Every published command. Raises `TableError`."""
    return toml.load(path, Published).command


def documented(text: str) -> Options:
    """The options of a published start. Raises `TableError` where it is neither a command line nor a call."""
    if not text.lstrip().startswith("LLM("):
        return _of_line(shlex.split(text.replace("\\\n", " "), comments=True))
    try:
        call = ast.parse(text.strip(), mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) else []
        given = {word.arg or "": ast.literal_eval(word.value) for word in keywords}
    except (SyntaxError, ValueError) as problem:
        raise TableError(f"text: not a call with plain values: {problem}") from None
    names = {name.replace("_", "-"): value for name, value in given.items()}
    return dict(
        (f"no-{name}", "") if value is False else (name, "" if value is True else _value(str(value)))
        for name, value in names.items()
    )


def _of_line(words: list[str]) -> Options:
    found: dict[str, str] = {}
    if "serve" in words[:-1]:
        found["model"] = words[words.index("serve") + 1]
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        after = words[place + 1] if place + 1 < len(words) else "--"
        found[_SAME.get(name, name)] = _value(value if equals else "" if after.startswith("--") else after)
    return found


def _value(text: str) -> str:
    """Numbers by their value: 0.90 is 0.9."""
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def rendered(backend: Backend, one: Deployment) -> tuple[str, ...]:
    """The command line that starts *one*, by the interpreter ``python3``."""
    return backend.recipe(one, one.model.id or one.model.name, 8000, "python3").argv


def differences(command: Command, argv: tuple[str, ...]) -> Iterator[Difference]:
    """Each flag that *argv* has otherwise than *command*, with its reason where one is given."""
    then, now = documented(command.text), _of_line(list(argv))
    for flag in sorted((then.keys() | now.keys()) - _EACH_RUN):
        if then.get(flag) != now.get(flag):
            yield Difference(flag, then.get(flag), now.get(flag), command.corrected.get(flag))


def page(commands: Iterable[Command], known: Mapping[str, tuple[Backend, Deployment]]) -> str:
    """The page of all commands. Raises `TableError` for a difference without a reason and a reason without a difference."""
    lines = [
        "# The commands of the documents, and ours\n",
        "Written by `longctx commands`. Each deployment renders its own command line; every difference from what was published",
        "has its reason here. Left out of each comparison: "
        + ", ".join(f"`--{name}`" for name in sorted(_EACH_RUN))
        + ". A server of a",
        "run listens on loopback, at a free port, and counts what it does.\n",
    ]
    for command in commands:
        if command.deployment not in known:
            raise TableError(f"{command.where}: {unknown('deployment', command.deployment, known)}")
        argv = rendered(*known[command.deployment])
        found = list(differences(command, argv))
        idle = command.corrected.keys() - {each.flag for each in found}
        bare = [each.flag for each in found if each.why is None]
        if idle or bare:
            wrong = f"without a reason: {', '.join(bare) or 'none'}; reasons without a difference: {sorted(idle)}"
            raise TableError(f"{command.document}, {command.where}: {command.deployment} differs {wrong}")
        lines += _section(command, argv, found)
    return "\n".join(lines)


def _section(command: Command, argv: tuple[str, ...], found: list[Difference]) -> Iterator[str]:
    yield f"## {command.deployment}\n"
    yield f"{command.document}: {command.where}\n"
    yield f"```\n{command.text.strip()}\n```\n"
    yield f"Rendered:\n\n```\n{shlex.join(argv)}\n```\n"
    if not found:
        yield "No difference.\n"
        return
    yield "| flag | documented | here | why |"
    yield "| --- | --- | --- | --- |"
    for each in found:
        yield f"| `--{each.flag}` | {_cell(each.documented)} | {_cell(each.rendered)} | {each.why} |"
    yield ""


def _cell(value: str | None) -> str:
    return "not there" if value is None else f"`{' '.join(value.split())}`" if value else "set"
