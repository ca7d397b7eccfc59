"""
Words of a pasted script, as a shell splits it: lines and their ends, arrays, arithmetic and variables.

No shell runs: ``$VARIABLE`` is replaced only if the text itself sets it.
"""

import ast
import json
import operator
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

_BREAK = frozenset({";", "&&", "||", "|", "&"})
_REDIRECTED = re.compile(r"[&\d]?(>>?|<)(&\d|[^=\s]\S*)?")
VARIABLE = re.compile(r"\$(?:\{(\w+)(?:\[[@*]\]|:?[-=]([^}]*))?\}|(\w+))")
_ARRAY = re.compile(r"(?m)^[ \t]*(?:(?:declare|local|readonly|typeset)[ \t]+(?:-\w+[ \t]+)*)?(\w+)(\+?)=\(([^()]*)\)")
"""A list of words of Bash, as scripts keep flags in: ``ARGS=(--tensor-parallel-size 4)``."""
_SUM = re.compile(r"\$\(\(([^`'\"\n]{1,80}?)\)\)")
_SIGNS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: int(a / b),
    ast.Mod: lambda a, b: a - b * int(a / b),
}
"""Arithmetic of a shell. Its division drops the remainder."""
_PROMPT = re.compile(r"(?m)^\s*(?:\([^()\n]{1,60}\)\s*)?\[?[\w.-]+@[\w.-]+[^#$\n]{0,80}[#$][ \t]+")
"""The prompt of a terminal before a command: ``root@node1:~# ``."""
_LINE_ENDS = re.compile(r"[ \t][`^]\r?\n")
"""A line that goes on, as PowerShell and cmd.exe write it."""


def split(script: str) -> list[str]:
    """Split a script into words: a line ends a command, a backslash continues it, comments are dropped."""
    if (listed := _listed(script)) is not None:
        return listed
    words: list[str] = []
    for line in _lines(script):
        try:
            words += [*shlex.split(line, comments=True), ";"]
        except ValueError:  # a quote that is closed on another line
            words += [*line.split(), ";"]
    return words


def _listed(script: str) -> list[str] | None:
    """Return the words of a command that is a list of JSON, as in manifests and Dockerfiles; None if it is none."""
    if not script.lstrip().startswith("["):
        return None
    try:
        found = json.loads(script)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found and all(isinstance(each, str) for each in found) else None


def _lines(script: str) -> list[str]:
    """
    The lines of a script, each with its continuations. As in a shell, a backslash with a blank behind it continues
    nothing.
    """
    if len(_LINE_ENDS.findall(script)) == sum(script.count(sign) for sign in "`^"):  # not the substitutions of a shell
        script = _LINE_ENDS.sub(" ", script)
    joined = re.sub(r"\\\r?\n", " ", _PROMPT.sub("", script))
    listed = _ARRAY.sub(_one_word, joined)
    return _SUM.sub(lambda found: found[0].replace(" ", ""), listed).splitlines()


def _one_word(found: re.Match[str]) -> str:
    """An array of Bash as the assignment of one text, which is split where it is used."""
    items = " ".join(re.sub(r"(?:^|\s)#[^\n]*", "", line).strip() for line in found[3].splitlines())
    before = f"${{{found[1]}:-}} " if found[2] else ""
    return f"{found[1]}={shlex.quote(before + items)}"


def commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Return the simple commands of a command line that was split into words."""
    simple: list[str] = []
    skipped = False
    for word in words:
        if skipped or _REDIRECTED.fullmatch(word):
            skipped = not skipped and word.endswith((">", "<"))
        elif word in _BREAK:
            yield simple
            simple = []
        elif word.endswith(";") and len(word) > 1:
            yield [*simple, word[:-1]]
            simple = []
        else:
            simple.append(word)
    yield simple


def expanded(word: str, env: Mapping[str, str]) -> str:
    """
    Replace variables of *env* and defaults of ``${NAME:-DEFAULT}`` in a *word* of a command. Other variables are not
    changed.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[3]
        return env.get(name, found[2] if found[2] is not None else found[0])

    return _SUM.sub(lambda found: _computed(found, env), VARIABLE.sub(value, word))


def _computed(found: re.Match[str], env: Mapping[str, str]) -> str:
    """Return the number that an expression such as ``$((32*1024))`` gives; the text unchanged if it gives no number."""
    try:
        return str(_worth(ast.parse(found[1].strip(), mode="eval").body, env))
    except (ArithmeticError, KeyError, MemoryError, RecursionError, SyntaxError, ValueError):
        return found[0]


def _worth(node: ast.expr, env: Mapping[str, str]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return int(env[node.id])
    if isinstance(node, ast.BinOp) and (sign := _SIGNS.get(type(node.op))):
        return sign(_worth(node.left, env), _worth(node.right, env))
    raise ValueError("must be an arithmetic expression of numbers and variables")
