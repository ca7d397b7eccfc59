"""
One line of a log as a record: who wrote it, when, at what level, and what is left of it as the message.

A line comes through as many hands as a deployment has: an engine's logger, a process tag, Ray, Docker, Compose, kubectl,
journald, Buildkite, a JSON formatter. Each puts something before it; `parse` takes off one after the other until nothing it
knows is left. Only the standard library, and no more than the line itself.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

LEVELS: Final = {
    **dict.fromkeys(("D", "T", "V", "DEBUG", "TRACE", "VERBOSE"), 10),
    **dict.fromkeys(("I", "INFO", "NOTICE", "SUCCESS"), 20),
    **dict.fromkeys(("W", "WARN", "WARNING"), 30),
    **dict.fromkeys(("E", "ERROR", "ERR"), 40),
    **dict.fromkeys(("C", "F", "CRITICAL", "FATAL", "ALERT", "EMERG", "PANIC"), 50),
}
"""How grave a level is, by the names that loggers give it."""
DEBUG, INFO, WARNING, ERROR, FATAL = 10, 20, 30, 40, 50

COLOURS = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")
_BUILDKITE = re.compile(r"(?:\x1b_|_)bk;t=\d+\x07?")
_MOST_PREFIXES = 9
_GO_ERROR = re.compile(r'" (?:\w[\w.]*=(?:"[^"]*"|\S+) )*(?:error|err)="')
"""Where the error follows the message in a line of Go's slog."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line, or one line of a message that a formatter had put into one."""

    text: str
    """What is left once all prefixes are off; its indentation stays."""
    level: int | None = None
    """None: the format has none, or there was no prefix at all."""
    where: str = ""
    """File and line of the logging call, or the logger's name."""
    source: str = ""
    """Container, Pod, Compose service or unit."""
    process: str = ""
    """The tag that an engine or Ray puts before each line of one process."""
    rank: str = ""
    time: str = ""
    kinds: tuple[str, ...] = ()
    """Which prefixes were taken off, outermost first."""
    line: str = ""
    """The whole line, as it was written."""

    @property
    def whole(self) -> str:
        """The line as a reader knows it."""
        return self.line or self.text

    @property
    def bare(self) -> bool:
        """Whether no logger's prefix is on it: the program's own output, or a line inside a message."""
        return not any(kind in _LOGGERS for kind in self.kinds)

    @property
    def key(self) -> tuple[str, str, str]:
        """Whose message the line may be part of."""
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
    )
)
_STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?"
_LEVEL = r"TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL"

_PREFIXES: Final = tuple(
    (name, re.compile(pattern))
    for name, pattern in {
        "kubectl": r"\[pod/(?P<source>[^\]\s]+)\] ?",
        "loguru": rf"(?P<time>{_STAMP}) \| (?P<level>[A-Z]+) *\| (?P<where>[\w.<>]+:[\w<>.]+:\d+) - ",
        "python": rf"(?P<time>{_STAMP}) - (?P<logger>[\w.]+) - (?P<level>[A-Z]+) - (?P<where>[\w./]+\.py:\d+ - )?",
        "lemonade": rf"(?P<time>{_STAMP}) \[(?P<level>[A-Z][a-z]+)\] (?:\([\w ]+\) ?)?",
        "nixl": rf"(?P<time>{_STAMP}) NIXL (?P<level>[A-Z]+) +(?P<where>\S+:\d+ )?",
        "ray": rf"\[(?P<time>{_STAMP}) (?P<level>[IWEFCD]) \d+ \d+\] (?P<where>[\w./]+:\d+): ?",
        "neuron": r"\d{4}-(?:[A-Z][a-z]{2}|\d\d)-\d\d \d\d:\d\d:\d\d\.\d+:? +[\d:]+ +"
        r"\[?(?P<level>[A-Z]+)\]?:? +(?P<where>[A-Z]+:\w+ +)?",
        "gunicorn": r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[(?P<level>[A-Z]+)\] ",
        "times": r"\[(?P<time>(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?)(?P<rank>(?: [A-Z]{2,4}\d+)*)\] ?"
        r"(?:LMCache (?P<level>[A-Z]+): )?",
        "kernel": r"\[(?:[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}|\s*\d+\.\d{6})\] ",
        "tensorrt": r"(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] )?\[(?:TRT-LLM|TRT|TensorRT-LLM|TM)\] ?"
        r"(?:\[RANK (?P<rank>\d+)\] ?)?\[(?P<level>[A-Z]+)\](?:\[[^\]]*\])* ?",
        "glog": r"\[?(?P<level>[IWEFC])(?:\d{3,4} \d\d:\d\d:\d\d\.\d+)? +(?:\d+ +)?(?P<where>[\w./+-]+:\d+)\] ?",
        "mpi": r"\[\d+,\d+\]<std(?:out|err)>: ?",
        "rank": r"\[(?:rank|default) ?(?P<rank>\d+)\]:? ?",
        "router": r"\[\d{2,7}\] ?(?=\d+\.\d\d\.\d|/|\[|[A-Za-z]|$)",
        "iso": r"\[?(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\]? ?"
        r"(?:std(?:out|err) [FP] ?)?(?:\[[a-z][\w.-]+-\d+\] )?(?:[\w.-]+ (?P<source>[\w./@-]+)\[\d+\]: ?)?",
        "journal": r"(?:<\d>)?(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?) [\w.-]+ "
        r"(?P<source>[\w./@-]+)(?:\[\d+\])?: ?",
        "rust": rf" ?(?P<level>{_LEVEL}) "
        rf"(?P<where>.{{0,400}}?\btext_generation\w*(?:::\w+)*: (?:[\w/.-]+\.rs:\d+: )?)",
        "engine": rf"(?P<level>{_LEVEL})(?: (?P<time>\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?))? "
        r"\[?(?P<where>[\w./<>-]+\.(?:pyx?|cc|cpp|rs):\d+)(?:\]|:) ?",
        "uvicorn": rf"(?P<level>{_LEVEL}):(?: {{4,}}| (?! ))",
        "dated": rf"(?P<level>{_LEVEL}):{_STAMP}:(?P<where>[\w.]+:\d+): ",
        "logging": rf"(?P<level>{_LEVEL}):(?P<where>[\w.]+): ?",
        "tag": r" ?\((?P<process>(?:[\w.:-]+(?: rank=\d+)?,? pid=\d+(?:, ip=[\d.]+)?)|raylet|autoscaler)\) ?",
        "logfmt": r"time=\S+ level=(?P<level>[A-Z]+) source=(?P<where>\S+) msg=\"?",
        "nccl": r"(?P<where>[\w.-]+):\d+:\d+ \[\d+\] (?:[\w/.]+:\d+ )?NCCL (?P<level>INFO|WARN|TRACE) ?",
        "llama": r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[IWED]) ",
        "srun": r"\d{1,3}: ?",
        "date": rf"(?P<time>{_STAMP}),? +(?=\S)",
        "compose": r"(?!(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL)\b)(?P<source>[A-Za-z][\w.-]*) *\| ?",
        "level": rf"\[?(?P<level>{_LEVEL})\]?:? +(?=\S)",
    }.items()
)
_STARTS: Final[dict[str, tuple[tuple[str, re.Pattern[str]], ...]]] = {}
"""The prefixes that can begin with a character; filled by the first line that begins so."""
_ALPHABET: Final = {
    "[": ("kubectl", "iso", "ray", "gunicorn", "times", "kernel", "tensorrt", "glog", "mpi", "rank", "router", "level"),
    "(": ("tag",),
    "<": ("journal",),
    " ": ("rust", "tag"),
}
_DIGITS: Final = ("loguru", "python", "lemonade", "nixl", "neuron", "iso", "llama", "srun", "nccl", "date")
_LETTERS: Final = (
    "journal",
    "logfmt",
    "rust",
    "engine",
    "dated",
    "uvicorn",
    "logging",
    "glog",
    "nccl",
    "compose",
    "level",
)
_ONCE: Final = ("compose", "srun", "journal", "level", "date")
_LAST: Final = frozenset(("engine", "rust", "neuron", "ray", "llama", "loguru", "python"))
"""An engine's own logger, whose message is what it is, whatever it begins with."""
_TRANSPORT: Final = frozenset(("loguru", "python", "lemonade"))
"""Formats that are also used to relay the output of another program; then its own level counts."""
_ENGINES = re.compile(
    r"vllm|sglang|lmdeploy|tensorrt|trtllm|text_generation|lmcache|turbomind|transformers|torch|uvicorn|huggingface|mooncake|nixl|ray\b|neuron|llama|engine",
    re.IGNORECASE,
)


def _candidates(first: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    if first not in _STARTS:
        names = _ALPHABET.get(first) or (_DIGITS if first.isdigit() else _LETTERS if first.isalpha() else ())
        known = dict(_PREFIXES)
        _STARTS[first] = tuple((name, known[name]) for name in names)
    return _STARTS[first]


def parse(line: str) -> Record:
    """
    *line* without its prefixes, and what they said.

    >>> found = parse("[pod/a-0/main] 2026-01-01T00:00:00.5Z (EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9]   File")
    >>> found.level, found.where, found.process, found.source, found.text
    (40, 'core.py:9', 'EngineCore pid=7', 'a-0/main', '  File')
    """
    if "\x1b" in line or "_bk;t=" in line:
        line = COLOURS.sub("", _BUILDKITE.sub("", line))
    line = line.rstrip("\r\n")
    return _strip(Record(line.removeprefix("^C"), line=line))


def _strip(record: Record) -> Record:
    """*record* with every prefix that is known off its text."""
    line = _Line(record)
    for _ in range(_MOST_PREFIXES):
        if not line.text or not line.take_off() or line.kinds[-1] in _LAST:
            break
    return line.record()


class _Line:
    """A line while its prefixes are taken off."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.text, self.kinds, self.level = record.text, list(record.kinds), record.level
        self.said: dict[str, str] = {}

    def take_off(self) -> bool:
        """Take one prefix off; whether there was one."""
        for name, pattern in _candidates(self.text[0]):
            if name in _ONCE and name in self.kinds:
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
        if name in _TRANSPORT and not _ENGINES.search(f"{groups.get('where')} {groups.get('logger')}"):
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
        """What is left, and what the prefixes said."""
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
        """The process a line belongs to; a rank that launchers put before every line is as good as a tag."""
        tag = self.said.get("process", self._record.process)
        return f"{tag} rank{self.said['rank']}".strip() if "rank" in self.kinds and "rank" in self.said else tag


def _unquoted(name: str, text: str) -> str:
    """*text* without the quotation marks that Triton's server and Go's loggers put around a whole message."""
    if name == "glog" and len(text) > 1 and text[0] == '"' == text.rstrip()[-1:]:
        return text.rstrip()[1:-1]
    if name == "logfmt" and text.rstrip().endswith('"'):
        return _GO_ERROR.sub(": ", text.rstrip()[:-1])
    return text


def _may_be_level(text: str, match: re.Match[str], kinds: list[str]) -> bool:
    """A word like ERROR at the start is a level only where a logger would put one."""
    rest = text[match.end() :]
    return not rest.startswith(("=", "(")) and not (kinds and kinds[-1] == "level")


def records(line: str) -> Iterator[Record]:
    """Every record in *line*: several where a formatter has put a message of several lines into one."""
    outer = parse(line)
    text = outer.text
    if not (text.startswith("{") and text.rstrip().endswith("}")):
        yield outer
        return
    made = _from_json(outer)
    if made is None:
        yield outer
        return
    for part in made.text.split("\n") if made.text else ():
        part = COLOURS.sub("", _BUILDKITE.sub("", part.rstrip("\r")))  # noqa: PLW2901
        inner = replace(made, text=part, line=part)
        if made.kinds[-1:] != ("json",):
            inner = _strip(inner)
        inner = replace(inner, kinds=(*made.kinds, *(kind for kind in inner.kinds if kind not in made.kinds)))
        deeper = _from_json(inner) if inner.text.startswith("{") and inner.text.endswith("}") else None
        yield from records(inner.text) if deeper is not None else (inner,)


_MESSAGE_KEYS: Final = ("message", "msg", "log", "MESSAGE", "event", "text", "textPayload")
_LEVEL_KEYS: Final = ("level", "levelname", "severity", "lvl", "log.level")
_TIME_KEYS: Final = ("timestamp", "time", "ts", "@timestamp", "asctime")
_LOGGER_KEYS: Final = ("logger", "name", "logger_name", "target")


def _from_json(outer: Record) -> Record | None:
    """The record that a JSON line holds; None where it is no log line."""
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
        level=LEVELS.get(said.upper(), outer.level) if _ENGINES.search(logger) else None,
        where=logger or outer.where,
        process=str(content.get("process") or content.get("pid") or outer.process),
        time=next((str(content[key]) for key in _TIME_KEYS if content.get(key)), outer.time),
        kinds=(*outer.kinds, "json") if _ENGINES.search(logger) else (*outer.kinds, "relay"),
    )
