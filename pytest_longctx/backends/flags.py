"""
Read flags as an engine's parser does: aliases, underscores, abbreviations, JSON, number suffixes, a config file.

The rules are those of ``argparse`` and of vLLM's ``FlexibleArgumentParser``. `versions` has the flags of each version.
A flag that the engine would refuse becomes a `Problem`, and all other flags are still read.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from pytest_longctx.backends.versions import EngineVersion, meant, recorded
from pytest_longctx.deployments.deployment import Deployment, FlagValue

_NUMBER = re.compile(r"-\d+(\.\d+)?|-\.\d+")
_SUFFIXED = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_RENAMED = {
    "tensor-parallel-size": "tp-size",
    "pipeline-parallel-size": "pp-size",
    "data-parallel-size": "dp-size",
    "expert-parallel-size": "ep-size",
}
"""
Maps names of SGLang's flags before 0.5.16 to the later names. Without this, a plan would take the flags for unset.
"""

_BARE = ("switch", "bool")
"""Types of flags that take no value."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A word that the engine's parser refuses, and the reason."""

    word: str
    what: str
    unknown: bool = False
    """Whether the parser does not know the flag."""

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class ReadFlags:
    """The flags of a command line, as the engine's parser reads them, and the words that it refuses."""

    engine: EngineVersion
    flags: dict[str, FlagValue] = field(default_factory=dict)
    """Values by the flag's name in `versions`, without dashes. JSON is kept as text, a list as words."""
    words: list[str] = field(default_factory=list)
    """Words of the command line that are neither flags nor values of flags."""
    problems: list[Problem] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Flags whose value is a shell variable that the command does not set."""

    def table(self, name: str) -> Mapping[str, Any]:
        """Return the JSON value of the flag *name* as a table; empty if the flag is missing or has no table."""
        try:
            found = json.loads(str(self.flags.get(name, "{}")))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def human_int(text: str) -> int:
    """
    Return the integer value of a flag: k, m, g, t are powers of 1,000, and K, M, G, T of 1,024. Raises ValueError.

    Source: ``human_readable_int`` of vLLM (``utils/argparse_utils.py``, 0.25.1), which SGLang has copied.

    >>> human_int("128k"), human_int("128K"), human_int("25.6k"), human_int("-1")
    (128000, 131072, 25600, -1)
    """
    match = _SUFFIXED.fullmatch(text.strip())
    if match is None:
        return int(text)
    number, suffix = match.groups()
    power = _POWERS[suffix.lower()]
    return int(number) * 1024**power if suffix.isupper() else int(float(number) * 1000**power)


def read(engine: EngineVersion, words: Sequence[str]) -> ReadFlags:
    """Return the flags in the *words* of a command line without the program's name, as the parser of *engine* reads them."""
    made, rest = ReadFlags(engine), [_level(engine, word) for word in words]
    tables: dict[str, dict[str, Any]] = {}
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            made.words.append(word)
        elif (name := _name(made, word)) is None:
            while rest and "=" not in word and not _is_flag(rest[0]):  # what it would have taken for its own
                rest.pop(0)
        elif "." in (spelt := word.partition("=")[0]) and engine.command_line["parser"]["dotted_keys"]:
            _put(tables.setdefault(name, {}), spelt.partition(".")[2].split("."), _taken(word, rest))
        else:
            _read_flag(made, name, word, rest)
    for name, table in tables.items():
        made.flags[name] = json.dumps({**made.table(name), **table})
    if engine.engine == "sglang":
        return replace(made, flags={_RENAMED.get(name, name): value for name, value in made.flags.items()})
    return made


def of_table(engine: EngineVersion, table: Mapping[str, FlagValue]) -> ReadFlags:
    """
    Return the flags of a deployment's ``[flags]``. Each key is a flag without dashes; ``true`` is a flag without value,
    ``false`` its negative form, or no flag if *engine* has none.
    """
    words: list[str] = []
    for name, value in table.items():
        if value is False:
            words += _negatives(engine, name)
        else:
            words += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return read(engine, words)


def arguments(one: Deployment, engine: str) -> tuple[str, ...]:
    """
    Return the flags of *one* as command-line arguments of its engine's version. ``false`` is the flag's negative form,
    as ``--no-enable-prefix-caching``, where that version has one: vLLM has many flags that are on by default.
    """
    rows = meant(engine, one.version) or recorded(engine)[-1:]
    words: list[str] = []
    for name, value in one.flags.items():
        if value is False:
            words += _negatives(rows[-1], name) if rows else ()
        else:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return tuple(words)


def _negatives(engine: EngineVersion, name: str) -> tuple[str, ...]:
    negative = engine.negative(f"--{name}")
    return () if negative is None else (negative,)


def canonical(one: Deployment, engine: str | None) -> Deployment:
    """
    Return the deployment *one* with its flags renamed as in its engine's version, so that all spellings are equal.

    A flag that the parser refuses is not changed. Without a recorded version of the engine, no flag is.
    """
    rows = meant(engine or "", one.version) or recorded(engine or "")[:1]
    if not rows:
        return one
    flags: dict[str, FlagValue] = {}
    for name, value in one.flags.items():
        read_one = of_table(rows[-1], {name: value})
        flags |= read_one.flags if read_one.flags and not read_one.problems else {name: value}
    length = next((flags.pop(name) for name in ("max-model-len", "context-length") if name in flags), None)
    if one.max_model_len is not None or not isinstance(length, int) or length < 1:
        length = one.max_model_len
    return one.model_copy(update={"flags": flags, "max_model_len": length})


def words_of_config(content: Mapping[str, Any]) -> list[str]:
    """Return the flags of a ``--config`` file as words, to put before the command line, whose flags win."""
    words: list[str] = []
    for name, value in content.items():
        if value is None or value is False:
            continue
        given = value if isinstance(value, list) else [value]
        texts = [json.dumps(each) if isinstance(each, dict) else str(each) for each in given]
        words += [f"--{name}"] if value is True else [f"--{name}", *texts]
    return words


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.fullmatch(word)


def _level(engine: EngineVersion, word: str) -> str:
    """Return the optimization flag ``-O`` as ``--optimization-level``, as vLLM does before parsing since 0.12."""
    if not word.startswith("-O") or "-O" in engine.spellings or "--optimization-level" not in engine.spellings:
        return word
    rest = word[2:].removeprefix("=")
    return f"--optimization-level={rest}" if rest else "--optimization-level"


def _name(made: ReadFlags, word: str) -> str | None:
    """
    Return the name of the flag that *word* stands for. Record a problem and return None if the parser knows no such
    flag.
    """
    engine = made.engine
    spelt = word.partition("=")[0]
    found = engine.candidates(_short(engine, word))
    if len(found) == 1:
        return found[0].removeprefix("--")
    if found:
        either = ", ".join(found[:4])
        made.problems.append(
            Problem(spelt, f"{spelt} is the beginning of several flags of {engine.engine} {engine.version}: {either}")
        )
        return None
    made.problems.append(Problem(spelt, _unknown(engine, spelt), unknown=True))
    return None


def _short(engine: EngineVersion, word: str) -> str:
    """Return the flag in *word* without an attached value, as ``-O`` for ``-O3`` and ``-cc`` for ``-cc.mode=3``."""
    spelt = word.partition("=")[0]
    if spelt.startswith("--") or spelt in engine.spellings:
        return word
    stem = spelt.partition(".")[0]
    return stem if stem in engine.spellings else spelt[:2] if spelt[:2] in engine.spellings else word


def _unknown(engine: EngineVersion, spelt: str) -> str:
    bare = spelt.replace("_", "-")
    near = get_close_matches(bare, engine.spellings, n=1, cutoff=0.75)
    guess = f"; the nearest is {near[0]}" if near else ""
    others = [each.version for each in recorded(engine.engine) if each.takes(spelt) == "known"]
    if others:
        guess += f"; of the versions that are recorded {_span(others)} {'has' if len(others) == 1 else 'have'} it"
    return f"{spelt} is not a flag of {engine.engine} {engine.version}{guess}"


def _span(versions: Sequence[str]) -> str:
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"


def _taken(word: str, rest: list[str]) -> str:
    """Return the value of a flag: the value in *word*, or the next word of *rest*."""
    _, equals, value = word.partition("=")
    return value if equals else rest.pop(0) if rest and not _is_flag(rest[0]) else ""


def _put(table: dict[str, Any], place: Sequence[str], text: str) -> None:
    """Store *text*, parsed as JSON if possible, under the key *place* of a dotted flag in *table*."""
    for part in place[:-1]:
        inner = table.setdefault(part, {})
        table = inner if isinstance(inner, dict) else {}
    try:
        table[place[-1]] = json.loads(text)
    except ValueError:
        table[place[-1]] = text


def _read_flag(made: ReadFlags, name: str, word: str, rest: list[str]) -> None:
    row, spelt = made.engine.command_line["flags"][name], word.partition("=")[0]
    if row["type"] in _BARE:
        if "=" in word:
            _note(made, spelt, f"{spelt} takes no value, but {word.partition('=')[2]!r} is given")
        dashed = spelt.replace("_", "-")
        off = any(each.startswith(dashed) for each in row.get("no", ())) and not f"--{name}".startswith(dashed)
        made.flags[name] = not off
        return
    values = _values(made.engine, row, word, rest)
    if not values:
        if row.get("nargs") in ("?", "*"):
            made.flags[name] = row.get("const", True)
        else:
            _note(made, spelt, f"{spelt} needs a value")
        return
    if row.get("nargs") in ("+", "*"):
        made.flags[name] = shlex.join(values)
        return
    _set(made, name, spelt, values[0])


def _values(engine: EngineVersion, row: Mapping[str, Any], word: str, rest: list[str]) -> list[str]:
    _, equals, value = word.partition("=")
    if equals:
        return [value]
    if not word.startswith("--") and word not in engine.spellings:  # -O3
        return [word[2:]]
    many = row.get("nargs") in ("+", "*")
    values: list[str] = []
    while rest and not _is_flag(rest[0]) and (many or not values):
        values.append(rest.pop(0))
    return values


def _set(made: ReadFlags, name: str, spelt: str, text: str) -> None:
    """
    Store *text* as the value of the flag *name*, converted to the flag's type. Record a problem if the parser would
    refuse it.
    """
    row = made.engine.command_line["flags"][name]
    try:
        value = _convert(row, text)
        table = json.loads(text) if name in _TABLES and "$" not in text else {}
    except ValueError as problem:
        if "$" in text:
            made.variables[name] = text
            return
        _note(made, spelt, f"{spelt} {text}: {_expected(row, problem)}")
        return
    if not isinstance(table, dict):
        _note(made, spelt, f"{spelt} {text}: must be a table in JSON")
    if (choices := row.get("choices")) and text not in {str(each) for each in choices} and not _open(choices):
        known = ", ".join(str(each) for each in choices)
        _note(
            made,
            spelt,
            f"{spelt} {text} is not a value in {made.engine.engine} {made.engine.version}; there are {known}",
        )
    made.flags[name] = value


_TABLES = frozenset({"speculative-config", "kv-transfer-config", "hf-overrides", "json-model-override-args"})
"""Flags on which a plan depends and whose value can only be a JSON table."""


def _open(choices: Sequence[Any]) -> bool:
    """Return whether only the running engine knows some choices of a flag."""
    return any(str(each).startswith(("*", "=")) for each in choices)


def _convert(row: Mapping[str, Any], text: str) -> FlagValue:
    parser, kind = str(row.get("parser", "")), row["type"]
    if parser.startswith("human_readable_int"):
        return -1 if parser.endswith("or_auto") and text.strip().lower() == "auto" else human_int(text)
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    if kind == "json" and text.lstrip()[:1] in ("{", "["):
        json.loads(text)
    return text


def _expected(row: Mapping[str, Any], problem: ValueError) -> str:
    if row["type"] == "json":
        return f"not valid JSON ({problem})"
    return f"a {'number' if row['type'] == 'float' else 'whole number'} is expected"


def _note(made: ReadFlags, spelt: str, what: str) -> None:
    made.problems.append(Problem(spelt, what))
