"""
Speed of the log diagnosis, compared with plain reading and with ``grep -c`` of one word on the same file.

There are six logs: lines that differ only in numbers (as in real servers), lines with a hexadecimal id, lines that are all
different, a log without a ready line, whose boot lines are searched to the end, and two logs of boot lines or errors that are all
different and have words of many patterns. The script also measures the peak memory of
the reading compared with a log of one line, and the time from a fatal line to the end of the wait, using a miniature that logs it
and hangs. Run it with ``python benchmarks/diagnosis.py [MiB]``.
"""

import base64
import hashlib
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


def write(path: Path, head: str, lines: Iterator[str], size: int) -> None:
    """Write a log of about *size* bytes with one fatal line at its end."""
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        written = 0
        while written < size:
            block = "".join(next(lines) for _ in range(2000))
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
    logs = {
        "alike": (BOOT + SERVING, alike),
        "ids": (BOOT + SERVING, partial(unlike, hexadecimal=True)),
        "unlike": (BOOT + SERVING, unlike),
        "never serving": (BOOT, alike),
        "hinted": (BOOT, hinted),
        "hinted errors": (BOOT, partial(hinted, "ERROR")),
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
