"""The prefixes that loggers, containers and launchers put before a message, each as a pattern with named parts."""

import re
from typing import Final

_STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?"
_LEVEL = r"TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL"

_PREFIXES: Final = tuple(
    (name, re.compile(pattern))
    for name, pattern in {
        "kubectl": r"\[pod/(?P<source>[^\]\s]+)\] ?",
        "loguru": rf"(?P<time>{_STAMP}) \| (?P<level>[A-Z]+) *\| (?P<where>[\w.<>]+:[\w<>.]+:\d+) - ",
        "python": rf"(?P<time>{_STAMP}) - (?P<logger>[\w.]+) - (?P<level>[A-Z]+) - (?P<where>[\w./]+\.py:\d+ - )?",
        "model_log": r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d+) \[[A-Z]+ *\] \S+-std(?:out|err) MODEL_LOG - ?",
        "torchserve": r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d+) \[(?P<level>[A-Z]+) *\] \S+ (?P<where>[\w.]+) - ",
        "worker": rf"(?P<time>{_STAMP})\t(?P<level>{_LEVEL}) (?P<where>[\w./-]+:\d+) -- ",
        "serve": rf"(?P<level>{_LEVEL}) {_STAMP} (?P<where>[\w.:#-]+)(?: [\w-]+){{1,3}} -- ",
        "lemonade": rf"(?P<time>{_STAMP}) \[(?P<level>[A-Z][a-z]+)\] (?:\([\w ]+\) ?)?",
        "nixl": rf"(?P<time>{_STAMP}) NIXL (?P<level>[A-Z]+) +(?P<where>\S+:\d+ )?",
        "ray": rf"\[(?P<time>{_STAMP}) (?P<level>[IWEFCD]) \d+ \d+\] (?P<where>[\w./]+:\d+): ?",
        "neuron": r"\d{4}-(?:[A-Z][a-z]{2}|\d\d)-\d\d \d\d:\d\d:\d\d\.\d+:? +[\d:]+ +"
        r"\[?(?P<level>[A-Z]+)\]?:? +(?P<where>[A-Z]+:\w+ +)?",
        "gunicorn": r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[(?P<level>[A-Z]+)\] ",
        "rich": rf"(?:\[(?P<time>\d\d/\d\d/\d\d \d\d:\d\d:\d\d)\]| {{19}}) (?:{_LEVEL}) +(?=\S)",
        "times": r"\[(?P<time>(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?)(?P<rank>(?: [A-Z]{2,4}\d+)*)\] ?"
        r"(?:LMCache (?P<level>[A-Z]+): )?",
        "kernel": r"\[(?:[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}|\s*\d+\.\d{6})\] ",
        "tensorrt": r"(?:\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] )?\[(?:TRT-LLM|TRT|TensorRT-LLM|TM)\] ?"
        r"(?:\[RANK (?P<rank>\d+)\] ?)?\[(?P<level>[A-Z]+)\](?:\[[^\]]*\])* ?",
        "glog": r"\[?(?P<level>[IWEFC])(?:\d{3,8} \d\d:\d\d:\d\d\.\d+)? +(?:\d+ +)?(?P<where>[\w./+-]+:\d+)\] ?",
        "mpi": r"\[\d+,\d+\]<std(?:out|err)>: ?",
        "rank": r"\[(?:rank|default) ?(?P<rank>\d+)\]:? ?",
        "router": r"\[\d{2,7}\] ?(?=\d+\.\d\d\.\d|/|\[|[A-Za-z]|$)",
        "iso": r"\[?(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\]? ?"
        r"(?:std(?:out|err) [FP] ?)?(?:\[[a-z][\w.-]+-\d+\] )?(?:[\w.-]+ (?P<source>[\w./@-]+)\[\d+\]: ?)?",
        "journal": r"(?:<\d>)?(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?) [\w.-]+ "
        r"(?P<source>[\w./@-]+)(?:\[\d+\])?: ?",
        "clock": r"(?P<time>\d\d:\d\d:\d\d(?:\.\d+)?) [\w.-]+ (?P<source>[\w./@-]+)\[\d+\]: ?",
        "rust": rf" ?(?P<level>{_LEVEL}) "
        r"(?P<where>.{0,400}?\b(?:text_generation|dynamo|kvbm|nixl|sglang_router|smg|mistralrs)\w*(?:(?:::|\.)\w+)*: "
        r"(?:[\w/.-]+\.rs:\d+: )?)",
        "engine": rf" ?(?P<level>{_LEVEL})(?: (?P<time>\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?))? "
        r"\[?(?P<where>[\w./<>-]+\.(?:pyx?|cc|cpp|rs):\d+)(?:\]|:) ?",
        "server relay": rf"(?:{_LEVEL}): +[A-Z]+ SERVER(?: [A-Z]+)?: ?",
        "uvicorn": rf"(?P<level>{_LEVEL}):(?: {{4,}}| (?! ))",
        "dated": rf"(?P<level>{_LEVEL}):{_STAMP}:(?P<where>[\w.]+:\d+): ",
        "logging": rf"(?P<level>{_LEVEL}):(?P<where>[\w.]+): ?",
        "tag": r" ?\((?P<process>(?:[\w.:-]+(?: (?:rank=|[A-Z]{2,4})\d+)*,? pid=\d+(?:, ip=[\d.]+)?)"
        r"|raylet|autoscaler(?: [^)]*)?)\) ?",
        "logfmt": r"time=\S+ level=(?P<level>[A-Z]+) source=(?P<where>\S+) msg=\"?",
        "zerolog relay": r"\d{1,2}:\d\d[AP]M DBG GRPC\([^)]*\): std(?:err|out) ",
        "zerolog": r"(?P<time>\d{1,2}:\d\d[AP]M) (?P<level>TRC|DBG|INF|WRN|ERR|FTL|PNC) ",
        "go": r"(?P<time>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) (?P<where>[\w./]+\.go:\d+): ",
        "table": r"\|(?: [\w.-]+ +\| (?:\d+)? +| {4,}\| {4,})\| ",
        "nccl": r"(?P<where>[\w.-]+):\d+:\d+ \[\d+\] (?:[\w/.]+:\d+ )?NCCL (?P<level>INFO|WARN|TRACE) ?",
        "llama": r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[IWED]) ",
        "srun": r"\d{1,3}: ?",
        "date": rf"(?P<time>{_STAMP}),? +(?=\S)",
        "compose": r"(?!(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL)\b)(?P<source>[A-Za-z][\w.-]*) *\| ?",
        "level": rf"\[?(?P<level>{_LEVEL})\]?:? +(?=\S)",
    }.items()
)
_STARTS: Final[dict[str, tuple[tuple[str, re.Pattern[str]], ...]]] = {}
"""The prefixes that can begin with a character, filled on first use."""
_ALPHABET: Final = {
    "[": (
        "kubectl",
        "iso",
        "ray",
        "gunicorn",
        "rich",
        "times",
        "kernel",
        "tensorrt",
        "glog",
        "mpi",
        "rank",
        "router",
        "level",
    ),
    "(": ("tag",),
    "<": ("journal",),
    " ": ("rich", "rust", "engine", "tag"),
    "|": ("table",),
}
_DIGITS: Final = (
    "zerolog relay",
    "zerolog",
    "clock",
    "loguru",
    "python",
    "model_log",
    "torchserve",
    "worker",
    "lemonade",
    "nixl",
    "neuron",
    "iso",
    "llama",
    "srun",
    "nccl",
    "go",
    "date",
)
_LETTERS: Final = (
    "journal",
    "logfmt",
    "rust",
    "engine",
    "serve",
    "dated",
    "server relay",
    "uvicorn",
    "logging",
    "glog",
    "nccl",
    "compose",
    "level",
)
ONCE: Final = ("compose", "srun", "journal", "clock", "level", "date")
LAST: Final = frozenset(("engine", "rust", "neuron", "ray", "llama", "loguru", "python"))
"""Loggers of engines: the message after such a prefix is not searched for more prefixes."""
TRANSPORT: Final = frozenset(("loguru", "python", "lemonade"))
"""Formats that also relay the output of another program, whose own level counts then."""
ENGINES = re.compile(
    r"vllm|sglang|lmdeploy|tensorrt|trtllm|text_generation|lmcache|turbomind|transformers|torch|uvicorn|huggingface|mooncake|nixl|ray\b|neuron|llama|engine",
    re.IGNORECASE,
)


def candidates(first: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the known log prefixes that can begin with the character *first*, by name."""
    if first not in _STARTS:
        names = _ALPHABET.get(first) or (_DIGITS if first.isdigit() else _LETTERS if first.isalpha() else ())
        known = dict(_PREFIXES)
        _STARTS[first] = tuple((name, known[name]) for name in names)
    return _STARTS[first]
