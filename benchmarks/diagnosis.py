"""
Speed of the log diagnosis, compared with plain reading and with ``grep -c`` of one word on the same file.

There are sixteen logs: lines that differ only in numbers (as in real servers), lines with a hexadecimal id, lines that are all
different, a log without a ready line, whose boot lines are searched to the end, two logs of boot lines or errors that are all
different and have words of many patterns, very short and very long lines, lines of Docker and of a JSON formatter, lines without
ASCII, prompts in English that a server logs, and lines that are all different and of which each is read: answers, and errors. The
script also measures the peak memory of
the reading compared with a log of one line, and the time from a fatal line to the end of the wait, using a miniature that logs it
and hangs. Run it with ``python benchmarks/diagnosis.py [MiB]``.
"""

import base64
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from pytest_longctx import paths
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader

CHUNK_BYTES = 1 << 20
RUNS = 3
BOOT = "(EngineCore pid=1) INFO 11-20 23:13:12 [core.py:1] GPU KV cache size: 32,884,669 tokens\n"
SERVING = "INFO:     Application startup complete.\n"
STATS = (
    "(APIServer pid=1) INFO 11-20 23:{minute:02d}:{second:02d} [loggers.py:335] Engine 000: "
    "Avg prompt throughput: {a}.6 tokens/s, "
    "Avg generation throughput: {b}.2 tokens/s, Running: 1 reqs, Waiting: 0 reqs, GPU KV cache usage: {b}.1%, "
    "Prefix cache hit rate: 0.0%\n"
    'INFO:     localhost:{a} - "POST /v1/completions HTTP/1.1" 200 OK\n'
)
FATAL = "ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.22 GiB. GPU 0 has a total capacity of 139.80 GiB\n"


def alike() -> Iterator[str]:
    """Yield lines that differ only in numbers."""
    i = 0
    while True:
        i += 1
        yield STATS.format(minute=i // 60 % 60, second=i % 60, a=1000 + i, b=i % 90)


def unlike(*, hexadecimal: bool = False) -> Iterator[str]:
    """Yield lines that are all different, or differ only in a hexadecimal id."""
    i = 0
    while True:
        i += 1
        digest = hashlib.sha256(str(i).encode())
        word = digest.hexdigest() if hexadecimal else base64.b64encode(digest.digest() * 2).decode()[:64]
        yield f"(APIServer pid=1) INFO 11-20 23:13:12 [logger.py:1] Received request cmpl-{word}: params: {word[::-1]}\n"


WORDS = (
    "memory",
    "error",
    "failed",
    "cache",
    "model",
    "shared",
    "graph",
    "worker",
    "device",
    "NCCL",
    "shm",
    "port",
    "token",
)


def hinted(level: str = "INFO") -> Iterator[str]:
    """Yield boot lines that are all different, each with words of many patterns and matched by none."""
    chosen = random.Random(1)
    while True:
        words = " ".join(f"{chosen.choice(WORDS)} {chosen.randbytes(3).hex()}" for _ in range(6))
        yield f"(EngineCore pid=70) {level} 11-21 10:11:47 [core.py:114] {words}\n"


LETTERS = random.Random(2)


def letters(length: int) -> str:
    """Return random letters."""
    return base64.b64encode(LETTERS.randbytes(length * 3 // 4 + 3)).decode()[:length]


INFO = "(APIServer pid=1) INFO 11-20 23:13:12 [logger.py:1] "
ENGLISH = """
the of and to in a is that for it as was with be by on not he i this are or his from at which but have an had they you were
their one all we can her has there been if more when will would who so no out up into only what some could time them other
than then now its like our over man me even most made after also did many before must through back years where much your way
well down should because long each just state those people too little very good world still see own work men day get here
between life being under three never know same last another while us off might great go come since against right came take
used himself few house use during without again place around however small found thought went say part once general high upon
school every does got united left number course war until always away something fact public less almost error failed memory
need version system
"""


def english(words: int) -> str:
    """Return English words in a random order, some of which stand in patterns as well."""
    return " ".join(LETTERS.choices(ENGLISH.split(), k=words))


KINDS: dict[str, Callable[[], str]] = {
    "short lines": lambda: letters(4),
    "empty lines": lambda: "",
    "lines of 60,000 letters": lambda: letters(60_000),
    "Docker's lines": lambda: json.dumps({"log": f"{INFO}{letters(100)}\n", "stream": "stderr"}),
    "JSON with escapes": lambda: json.dumps(
        {"message": f'{letters(50)} "{letters(9)}" ä {letters(50)}', "level": "info"}
    ),
    "no ASCII": lambda: INFO + "".join(chr(LETTERS.randrange(0x4E00, 0x9FA5)) for _ in range(60)),
    "English": lambda: INFO + english(20),
    "prompts": lambda: f"{INFO}Received request {letters(20)}: prompt: '{english(200)}', params: SamplingParams(n=1)",
    "answers": lambda: f'INFO:     10.0.0.1:5 - "POST /v1/{letters(30)} HTTP/1.1" 200 OK',
    "errors": lambda: f"{INFO.replace('INFO', 'ERROR')}KeyError: '{letters(30)}'",
}
"""Lines that are all different. The last two are read one by one, since a pattern matches each."""


def lines_of(kind: Callable[[], str]) -> Iterator[str]:
    """Yield lines of one kind."""
    while True:
        yield f"{kind()}\n"


def write(path: Path, head: str, lines: Iterator[str], size: int) -> None:
    """Write a log of about *size* bytes with one fatal line at its end."""
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        written = 0
        while written < size:
            block = "".join(next(lines) for _ in range(20))
            written += file.write(block)
        file.write(FATAL)


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def diagnosed(path: Path) -> LogReader:
    """Read the log as during the wait for a boot."""
    reading = read(chunks(path), Vllm().catalogue)
    assert reading.cause is not None
    assert reading.cause.metrics["allocation_gib"] == 2.22
    return reading


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of several runs in seconds."""
    taken = []
    for _ in range(RUNS):
        started_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started_s)
    return median(taken)


PEAK = """
import sys
from pathlib import Path
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.diagnosis.log_file import read_file
read_file(Path(sys.argv[1]), Vllm().catalogue)
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def peak_mib(path: Path) -> float:
    """Return the peak memory of a process that only reads the log, in MiB."""
    return float(
        subprocess.run([sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True).stdout
    )


def wait_ends_s() -> float:
    """Return the seconds from a fatal line to the end of the wait for a server that logged it and hangs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dies.toml").write_text(
            'name = "dies"\ntitle = "logs it and hangs"\nbackend = "miniature"\nmax_model_len = 65_536\n'
            '[model]\nname = "miniature"\nweights = "unknown"\n[flags]\nfault = "dies-hanging"\n[timeouts]\nboot_s = 60\n',
            encoding="utf-8",
        )
        arguments = [str(paths.suites()), "-c", "/dev/null", f"--rootdir={name}", "-k", "MN-0001"]
        arguments += ["--backend=miniature", "--longctx-deployment=dies.toml", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        found = re.search(r"after +([\d.]+) s of", done.stdout)
        assert found is not None, done.stdout
        return float(found[1])


def main() -> int:
    """Measure and print the results."""
    size = int(sys.argv[1] if len(sys.argv) > 1 else 256) << 20
    logs: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
        "alike": (BOOT + SERVING, alike),
        "ids": (BOOT + SERVING, partial(unlike, hexadecimal=True)),
        "unlike": (BOOT + SERVING, unlike),
        "never serving": (BOOT, alike),
        "hinted": (BOOT, hinted),
        "hinted errors": (BOOT, partial(hinted, "ERROR")),
        **{name: (BOOT, partial(lines_of, kind)) for name, kind in KINDS.items()},
    }
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "server.log"
        for title, (head, lines) in logs.items():
            write(path, head, lines(), size)
            mb = path.stat().st_size / 1e6
            plain_s = seconds(lambda: sum(map(len, chunks(path))))
            grep_s = seconds(lambda: subprocess.run(["grep", "-c", "out of memory", str(path)], check=True, stdout=-3))
            ours_s = seconds(lambda: diagnosed(path))
            print(
                f"{title}: {mb / ours_s:.0f} MB/s; plain reading {mb / plain_s:.0f} MB/s (ratio {ours_s / plain_s:.1f}), "
                f"grep -c {mb / grep_s:.0f} MB/s (ratio {ours_s / grep_s:.1f}); {peak_mib(path):.0f} MiB at most"
            )
        path.write_text(FATAL, encoding="utf-8")
        print(f"a log of one line: {peak_mib(path):.0f} MiB at most")
    print(f"from the start of a process that logs a fatal line and hangs to the end of the wait: {wait_ends_s():.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
