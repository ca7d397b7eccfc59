"""The published start commands, compared with the rendered ones, as a Markdown page."""

import ast
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pytest_longctx import toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.launchers.start_command import StartCommand
from pytest_longctx.reports.pages import markdown_table

Options = Mapping[str, str]
"""Flags without dashes, under their usual names. A flag without a value maps to an empty string."""

_SAME = {"tp": "tensor-parallel-size", "tp-size": "tensor-parallel-size", "model-path": "model"}
_CALL = re.compile(r"\s*[A-Za-z_][\w.]*\(")
"""Begin of the call of an engine in a script, such as ``LLM(`` or ``sgl.Runtime(``."""

_EACH_RUN = frozenset({"host", "port", "served-model-name", "enable-metrics", "enable-cache-report"})
"""Flags that differ in every pair: loopback address, free port, model name, and counters used by the verdicts."""


class Command(toml.Table):
    """Documented start command: a command line, or the ``LLM(...)`` call of a script."""

    document: str
    where: str
    text: str
    deployment: str
    env: dict[str, str] = Field(default_factory=dict)
    """Documented variables of the server's environment, without those that only say where the model cache is."""
    corrected: dict[str, str] = Field(default_factory=dict)
    """Reasons for flags and variables that differ from the document, by name, flags without dashes."""


class Published(toml.Table):
    """The contents of the data file of commands."""

    command: Annotated[tuple[Command, ...], toml.LISTED] = ()


class Difference(NamedTuple):
    """A flag or variable whose value differs from the document; ``None`` stands for an absent value."""

    flag: str
    documented: str | None
    rendered: str | None
    why: str | None


def load(path: Path) -> tuple[Command, ...]:
    """Return every published command. Raises `TableError`."""
    return toml.load(path, Published).command


def documented(text: str) -> Options:
    """Return the options of a published command. Raises `TableError` if it is neither a command line nor a call."""
    if not _CALL.match(text):
        return _of_line(shlex.split(text.replace("\\\n", " "), comments=True))
    try:
        call = ast.parse(text.strip(), mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) else []
        given = {word.arg or "": ast.literal_eval(word.value) for word in keywords}
    except (SyntaxError, ValueError) as problem:
        raise TableError(f"text: must be a call whose keyword arguments are literals: {problem}") from None
    dashed = ((name.replace("_", "-"), value) for name, value in given.items())
    names = {_SAME.get(name, name): value for name, value in dashed}
    return dict(
        (f"no-{name}", "") if value is False else (name, "" if value is True else _value(str(value)))
        for name, value in names.items()
    )


def _of_line(words: Iterable[str]) -> Options:
    start = StartCommand(command=tuple(words))
    named = {name[2:]: _value(value) for name, value in start.flags.items() if name.startswith("--")}
    model = {"model": start.model} if start.model else {}
    return {**model, **{_SAME.get(name, name): value for name, value in named.items()}}


def _value(text: str) -> str:
    """Return a value in the options of a command with normal numbers, so that 0.90 equals 0.9."""
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def rendered(backend: Backend, one: Deployment) -> tuple[str, ...]:
    """Return the command line that starts *one* with the interpreter ``python3``."""
    return backend.recipe(one, one.model.id or one.model.name, 8000, "python3").argv


def differences(command: Command, argv: tuple[str, ...], env: Options | None = None) -> Iterator[Difference]:
    """
    Yield the differences from a published *command*: each flag of *argv* and each variable of *env*, with the
    documented reason if any.
    """
    flags = documented(command.text), {name: value for name, value in _of_line(argv).items() if name not in _EACH_RUN}
    for then, now in (flags, (command.env, env or {})):
        for name in sorted((then.keys() | now.keys()) - _EACH_RUN):
            if then.get(name) != now.get(name):
                yield Difference(name, then.get(name), now.get(name), command.corrected.get(name))


def commands_page(commands: Iterable[Command], known: Mapping[str, tuple[Backend, Deployment]]) -> str:
    """
    Return the page of all commands. Raises `TableError` for a difference without a reason or a reason without a
    difference.
    """
    lines = [
        "# Published commands and rendered commands\n",
        "<!-- Made by `longctx commands`. -->\n",
        "This page compares each start command that a document published with the command line and environment that this",
        "package renders for the same deployment. Every difference is listed with its reason. Variables that only place the",
        "model cache are omitted, and so are these flags: "
        + ", ".join(f"`--{name}`" for name in sorted(_EACH_RUN))
        + ".",
        "In a run, a server listens on loopback at a free port and reports its counters.\n",
    ]
    for command in commands:
        if command.deployment not in known:
            raise TableError(f"{command.where}: {unknown('deployment', command.deployment, known)}")
        backend, one = known[command.deployment]
        argv = rendered(backend, one)
        found = list(differences(command, argv, one.env))
        idle = command.corrected.keys() - {each.flag for each in found}
        bare = [each.flag for each in found if each.why is None]
        if idle or bare:
            wrong = f"without a reason: {', '.join(bare) or 'none'}; reasons without a difference: {sorted(idle)}"
            raise TableError(f"{command.document}, {command.where}: {command.deployment} differs {wrong}")
        lines += _section(command, argv, one.env, found)
    return "\n".join(lines)


def _section(command: Command, argv: tuple[str, ...], env: Options, found: list[Difference]) -> Iterator[str]:
    yield f"## {command.deployment}\n"
    yield f"{command.document}: {command.where}\n"
    yield f"```\n{_variables(command.env)}{command.text.strip()}\n```\n"
    yield f"Rendered:\n\n```\n{_variables(env)}{shlex.join(argv)}\n```\n"
    if not found:
        yield "No difference.\n"
        return
    rows = ((_name(each), _cell(each.documented), _cell(each.rendered), str(each.why)) for each in found)
    yield from markdown_table(("flag or variable", "documented", "here", "why"), rows)
    yield ""


def _variables(env: Options) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in env.items())


def _name(each: Difference) -> str:
    return f"`{each.flag}`" if each.flag.isupper() else f"`--{each.flag}`"


def _cell(value: str | None) -> str:
    return "not there" if value is None else f"`{' '.join(value.split())}`" if value else "set"
