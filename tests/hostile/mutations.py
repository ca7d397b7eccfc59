"""
Mutations of honest inputs for every parser of foreign text, from a seed: fast, so that a million strings take minutes.

The fuzzers of hypothesis build odd values from nothing, and shrink what fails. These begin with what is right and damage it, by
bytes and, where it is JSON, by values, which reaches further into a reader.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TOKENS = (
    *(
        b"0",
        b"-1",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 400,
        b"9" * 5000,
        b"0x1",
        b"1_000",
        b"-0.0",
        b"1e308",
        b"18446744073709551616",
    ),
    *(
        "٣".encode(),
        b"\x00",
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
        b"\r",
        b"\n",
        b"\r\n",
        b"\t",
        b" " * 300,
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"'",
        b",",
        b":",
        b"=",
        b"\\",
        b"#",
        b"{" * 60,
        b"[" * 2000,
        b"{{}}",
        b"%s",
        b"${A}",
        b"$(",
    ),
    *(
        b"null",
        b"true",
        b"false",
        b"[]",
        b"{}",
        b'""',
        b"data: ",
        b"\n\n",
        b"data: [DONE]\n\n",
        b"::error::",
        b"</script>",
        b"&a *a",
    ),
    *(
        b"--",
        b"-",
        b"=",
        b"|",
        b";",
        b"&&",
        b"../..",
        b"/dev/zero",
        b"x" * 3000,
        b"1979-05-27",
        b"a.b.c",
        b"\xe2\x80\xae",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**19, int("9" * 400), 0.0, -0.0, 1e308, 5e-324, 0.5),
    *(float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "x",
        "\ud800",
        "\x00",
        "::error::",
        "\x1b[2J",
        "٣",
        "1e999",
        "x" * 3000,
        "auto",
        "none",
        "../..",
        "-1",
        "NaN",
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {}}, [0] * 50, ["x"], {"x": [1]}),
)


def damaged(rng: random.Random, text: bytes, other: bytes) -> bytes:
    """*text* with one to four changes of its bytes, some of them taken from *other*."""
    made = bytearray(text)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at, end = sorted((rng.randint(0, len(made)), rng.randint(0, len(made))))
        end = min(end, at + rng.choice((1, 2, 8, 40, 400)))
        match rng.randint(0, 6):
            case 0:
                del made[at:end]
            case 1:
                made[at:at] = made[at:end]
            case 2:
                made[at:end] = rng.choice(TOKENS)
            case 3:
                made[at:at] = rng.choice(TOKENS)
            case 4:
                made[at : at + 1] = bytes([rng.randint(0, 255)])
            case 5:
                start = rng.randint(0, len(other))
                made[at:end] = other[start : start + rng.choice((1, 8, 80))]
            case _:
                del made[end:]
    return bytes(made)


def changed(rng: random.Random, value: Any) -> Any:
    """*value* of JSON with one to three of its nodes replaced, dropped or moved."""
    made = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        inside, depth = made, rng.randint(0, 6)
        while depth and isinstance(inside, dict | list) and inside:
            key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
            if depth == 1 or not isinstance(inside[key], dict | list) or not inside[key]:
                _replace(rng, inside, key)
                break
            inside, depth = inside[key], depth - 1
    return made


def _replace(rng: random.Random, inside: Any, key: Any) -> None:
    match rng.randint(0, 5):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[rng.choice(("", "x", key, "\ud800", str(key).upper()))] = inside[key]
        case 2:
            inside[key] = [inside[key]]
        case 3:
            inside[key] = str(inside[key])
        case _:
            inside[key] = copy.deepcopy(rng.choice(VALUES))  # a later change must not reach into it


@dataclass(frozen=True)
class Parser:
    """A reader of foreign text."""

    honest: tuple[bytes, ...]
    """What it should read; each is a whole input."""
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()
    """Its documented errors."""
    share: float = 1.0
    """Strings for each of the usual number, fewer if it is slow."""


def strings(parser: Parser, seed: str, count: int) -> Iterator[bytes]:
    """*count* damaged inputs for *parser*, always the same for a *seed*."""
    rng = random.Random(seed)
    values = [_json(text) for text in parser.honest]
    for _ in range(count):
        index = rng.randrange(len(parser.honest))
        if values[index] is not None and rng.random() < 0.6:
            yield json.dumps(changed(rng, values[index])).encode()
        else:
            yield damaged(rng, parser.honest[index], rng.choice(parser.honest))


def _json(text: bytes) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def failures(parser: Parser, seed: str, count: int) -> Mapping[str, bytes]:
    """An input for each kind of exception that is not documented, of *count* strings."""
    found: dict[str, bytes] = {}
    for text in strings(parser, seed, count):
        try:
            parser.read(text)
        except parser.errors:
            continue
        except Exception as problem:  # noqa: BLE001 - any other is what is looked for
            trace = problem.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
            found.setdefault(f"{type(problem).__name__} at {where}: {problem}"[:300], text)
    return found
