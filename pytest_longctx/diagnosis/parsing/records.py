"""
Parse a log line into a record: source, process, time, level and message.

Engine loggers, process tags, Ray, Docker, Compose, kubectl, journald, Buildkite and JSON formatters each add a prefix. `parse`
removes the known prefixes one by one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pytest_longctx.diagnosis.parsing import prefixes, quoting
from pytest_longctx.diagnosis.parsing.colours import without_colours

LEVELS: Final = {
    **dict.fromkeys(("D", "T", "V", "DEBUG", "TRACE", "VERBOSE", "DBG", "TRC"), 10),
    **dict.fromkeys(("I", "INFO", "NOTICE", "SUCCESS", "INF"), 20),
    **dict.fromkeys(("W", "WARN", "WARNING", "WRN"), 30),
    **dict.fromkeys(("E", "ERROR", "ERR"), 40),
    **dict.fromkeys(("C", "F", "CRITICAL", "FATAL", "ALERT", "EMERG", "PANIC", "FTL", "PNC"), 50),
}
"""Severity of each level name that loggers use."""
DEBUG, INFO, WARNING, ERROR, FATAL = 10, 20, 30, 40, 50

_MOST_PREFIXES = 9
_GO_ERROR = re.compile(r'''" (?:\w[\w.]{0,80}=(?:"(?:[^"\\]|\\.)*"|[^\s"]\S*) ){0,50}(?:error|err)="''')
"""Where the error follows the message in a line of Go's slog. A value has one reading, or a long line would take hours."""
_ZEROLOG_ERROR = re.compile(r' error="((?:[^"\\]|\\.)*)"$')
"""Where the error follows the message in a line of zerolog for the console."""

_COLUMN = re.compile(r"\s+\S+\.py:\d+\s*$")
"""The file and line that rich puts at the right edge of a line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One log line without its prefixes, or one line of a message that has several."""

    text: str
    """The message without prefixes; its indentation is kept."""
    level: int | None = None
    """None: the line has no prefix with a level."""
    where: str = ""
    """File and line of the logging call, or the logger's name."""
    source: str = ""
    """Container, Pod, Compose service or unit."""
    process: str = ""
    """The process tag of an engine or of Ray."""
    rank: str = ""
    time: str = ""
    kinds: tuple[str, ...] = ()
    """The removed prefixes, outermost first."""
    line: str = ""
    """The whole line as written."""
    joined: bool = False
    """Whether it is a later line of a message whose lines a formatter joined."""

    @property
    def whole(self) -> str:
        """The record's line as the log has it."""
        return self.line or self.text

    @property
    def bare(self) -> bool:
        """Whether the record's line has no logger's prefix: direct output, or a line inside a message."""
        return not any(kind in _LOGGERS for kind in self.kinds)

    @property
    def logged(self) -> bool:
        """Whether an engine's own prefix was removed from the record."""
        return self.kinds[-1:] != () and self.kinds[-1] in prefixes.LAST

    @property
    def key(self) -> tuple[str, str, str]:
        """Source, process and logging call of the record. Records with equal keys can belong to one message."""
        return self.source, self.process, "" if self.bare else self.where


_LOGGERS: Final = frozenset(
    (
        "engine",
        "python",
        "uvicorn",
        "times",
        "glog",
        "tensorrt",
        "llama",
        "neuron",
        "loguru",
        "json",
        "rust",
        "level",
        "ray",
        "nccl",
        "logfmt",
        "zerolog",
        "torchserve",
        "worker",
        "serve",
    )
)


def parse(line: str) -> Record:
    """
    Return the record of a log *line*: its text without prefixes, and the fields of the prefixes.

    >>> found = parse("[pod/a-0/main] 2026-01-01T00:00:00.5Z (EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9]   File")
    >>> found.level, found.where, found.process, found.source, found.text
    (40, 'core.py:9', 'EngineCore pid=7', 'a-0/main', '  File')
    """
    line = without_colours(line).rstrip("\r\n")
    return _strip(Record(line.removeprefix("^C"), line=line))


def _strip(record: Record) -> Record:
    """Return a log *record* without all known prefixes."""
    line = _Line(record)
    for _ in range(_MOST_PREFIXES):
        if not line.text or not line.take_off() or line.kinds[-1] in prefixes.LAST:
            break
    return line.record()


class _Line:
    """A line from which the prefixes are removed one by one."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.text, self.kinds, self.level = record.text, list(record.kinds), record.level
        self.said: dict[str, str] = {}

    def take_off(self) -> bool:
        """Remove one prefix from the record's line, and return whether the line had one."""
        for name, pattern in prefixes.candidates(self.text[0]):
            if name in prefixes.ONCE and name in self.kinds:
                continue
            match = pattern.match(self.text)
            if match is not None and (name != "level" or _may_be_level(self.text, match, self.kinds)):
                self._took(name, match)
                return True
        return False

    def _took(self, name: str, match: re.Match[str]) -> None:
        groups = match.groupdict()
        self.kinds.append(name)
        self.text = _unquoted(name, self.text[match.end() :])
        if name == "times":  # it has no level, whatever the one before it says
            self.level = None
        if name in prefixes.TRANSPORT and not prefixes.ENGINES.search(f"{groups.get('where')} {groups.get('logger')}"):
            self.kinds[-1], self.level = "relay", None
            return
        if level := groups.get("level"):
            self.level = LEVELS.get(level.upper(), self.level)
        for part in ("where", "source", "process", "rank", "time"):
            if value := groups.get(part):
                self.said[part] = self._joined(part, value)

    def _joined(self, part: str, value: str) -> str:
        return f"{self.said[part]} {value}" if part == "process" and part in self.said else value.strip(" -:")

    def record(self) -> Record:
        """Return the record of the remaining message, with the fields of the removed prefixes."""
        before, said = self._record, self.said
        return replace(
            before,
            text=self.text,
            level=self.level,
            kinds=tuple(self.kinds),
            where=said.get("where", before.where),
            source=said.get("source", before.source),
            process=self._process(),
            rank=said.get("rank", before.rank).strip(),
            time=said.get("time", before.time),
        )

    def _process(self) -> str:
        """Return the process of the record's line: its tag, and the rank that a launcher writes before every line."""
        tag = self.said.get("process", self._record.process)
        return f"{tag} rank{self.said['rank']}".strip() if "rank" in self.kinds and "rank" in self.said else tag


def _unquoted(name: str, text: str) -> str:
    """
    Return the text of a record without the quotation marks that Triton's server and Go's loggers write around a whole
    message, or the end of a table's row.
    """
    if name == "glog" and len(text) > 1 and text[0] == '"':
        if text.rstrip()[-1:] == '"':
            return text.rstrip()[1:-1]
        return text if text.replace('\\"', "").count('"') % 2 == 0 else text[1:]  # the message goes on in the next line
    if name in ("rich", "table"):
        return _COLUMN.sub("", text) if name == "rich" else text.rstrip().removesuffix("|").rstrip()
    if name == "zerolog" and text.rstrip().endswith('"'):
        return _ZEROLOG_ERROR.sub(r": \1", text.rstrip())
    if name == "logfmt" and text.rstrip().endswith('"'):
        return _GO_ERROR.sub(": ", text.rstrip()[:-1])
    return text


def _may_be_level(text: str, match: re.Match[str], kinds: list[str]) -> bool:
    """Return whether a record's leading word such as ERROR is a logger's level."""
    rest = text[match.end() :]
    return not rest.startswith(("=", "(")) and not (kinds and kinds[-1] == "level")


def records(line: str) -> Iterator[Record]:
    """Yield the records in a log *line*, several if a formatter joined the lines of a message."""
    outer = parse(line)
    text = outer.text
    if not (text.startswith("{") and text.rstrip().endswith("}")):
        yield outer
        return
    made = _from_json(outer)
    if made is None:
        yield outer
        return
    for number, part in enumerate(_lines_of(made)):
        part = without_colours(part.rstrip("\r"))  # noqa: PLW2901
        inner = replace(made, text=part, line=part, joined=number > 0)
        if made.kinds[-1:] != ("json",):
            inner = _strip(inner)
        inner = replace(inner, kinds=(*made.kinds, *(kind for kind in inner.kinds if kind not in made.kinds)))
        deeper = _from_json(inner) if inner.text.startswith("{") and inner.text.endswith("}") else None
        yield from records(inner.text) if deeper is not None else (inner,)


def _lines_of(made: Record) -> list[str]:
    """
    Return the lines of a record's message. A request or an answer stays one line, so that no part of it counts as a
    statement.
    """
    whole = quoting.is_request(made.text.partition("\n")[0]) and (made.level or INFO) < ERROR
    return [made.text.replace("\n", "\\n")] if whole else made.text.split("\n") if made.text else []


_ESCAPED: Final = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_MOST_FORMATTERS: Final = 3
"""Formatters around each other whose escapes are read, such as an engine's in a collector's."""


def plain(line: bytes) -> bytes:
    r"""
    Return one or several lines as valid UTF-8. If a JSON formatter escaped a *line*, the unescaped text follows it. If several
    formatters did, the text follows as unescaped once, twice and so on.

    >>> print(plain(rb"\"log\": \u003c\\u003e").decode())
    \"log\": \u003c\\u003e
    "log": <\u003e
    "log": <>
    """
    if b"\\" not in line:
        return line if line.isascii() else line.decode("utf-8", "replace").encode()
    said = [line.decode("utf-8", "replace")]
    while "\\" in said[-1] and len(said) <= _MOST_FORMATTERS:
        text = said[-1].replace("\\\\", "\0")
        text = _ESCAPED.sub(_characters, text) if "\\u" in text else text
        text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t").replace("\0", "\\")
        if text == said[-1]:
            break
        said.append(text)
    return "\n".join(said).encode("utf-8", "replace")


def _characters(escaped: re.Match[str]) -> str:
    return str(json.loads(f'"{escaped[0]}"'))


_MESSAGE_KEYS: Final = ("message", "msg", "log", "MESSAGE", "event", "text", "textPayload")
_LEVEL_KEYS: Final = ("level", "levelname", "severity", "lvl", "log.level")
_TIME_KEYS: Final = ("timestamp", "time", "ts", "@timestamp", "asctime")
_LOGGER_KEYS: Final = ("logger", "name", "logger_name", "target")


def _from_json(outer: Record) -> Record | None:
    """Return the record in a line of JSON; None if the JSON is not a log entry."""
    try:
        content = json.loads(outer.text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    fields = content.get("fields")
    content = {**fields, **content} if isinstance(fields, dict) else content
    message = next((content[key] for key in _MESSAGE_KEYS if isinstance(content.get(key), str)), None)
    if message is None:
        return None
    said = next((str(content[key]) for key in _LEVEL_KEYS if isinstance(content.get(key), str)), "")
    logger = next((str(content[key]) for key in _LOGGER_KEYS if isinstance(content.get(key), str)), "")
    trace = next(
        (
            content[key]
            for key in ("exc_info", "exception", "stack_trace", "traceback")
            if isinstance(content.get(key), str)
        ),
        "",
    )
    return replace(
        outer,
        text="\n".join(filter(None, (message.rstrip("\n"), trace))),
        level=LEVELS.get(said.upper(), outer.level) if prefixes.ENGINES.search(logger) else None,
        where=logger or outer.where,
        process=str(content.get("process") or content.get("pid") or outer.process),
        time=next((str(content[key]) for key in _TIME_KEYS if content.get(key)), outer.time),
        kinds=(*outer.kinds, "json") if prefixes.ENGINES.search(logger) else (*outer.kinds, "relay"),
    )
