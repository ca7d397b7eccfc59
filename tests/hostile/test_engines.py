"""Attacks on the Docker launcher by what answers at the engine's socket: one message, flat memory, an end in time, nobody else's containers."""

import base64
import gc
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.diagnosis.parsing import lines
from pytest_longctx.errors import LongctxError
from pytest_longctx.launchers import Launch, docker, log_copy
from pytest_longctx.launchers.docker import DockerLauncher, container, container_cleanup
from tests.hostile.servers import (
    MIB,
    PAGE_ATTACKS,
    Answer,
    Hostile,
    chunk,
    drip,
    elapsed,
    endless,
    head,
    just,
    listening,
    peak_mib,
    silent,
    whole,
)
from tests.unit import factories

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""The SDK does not close a connection whose answer it cannot read."""
ID = "c" * 64
PEAK_MIB = 150


def frame(text: bytes, length: int | None = None) -> bytes:
    """A piece of a container's log as the engine sends it."""
    return b"\x01\0\0\0" + (len(text) if length is None else length).to_bytes(4) + text


def inspected(**state: Any) -> dict[str, Any]:
    over = {"Running": False, "ExitCode": 3, "OOMKilled": False, "Pid": 0, **state}
    return {
        "Id": ID,
        "State": over,
        "Config": {"Tty": False, "Labels": {}},
        "Name": "/x",
        "Image": "sha256:" + "a" * 64,
    }


HONEST: Mapping[str, bytes] = {
    "version": whole({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}),
    "list": whole([]),
    "image": whole({"Id": "sha256:" + "a" * 64, "RepoDigests": ["x@sha256:" + "b" * 64], "RepoTags": ["x:1"]}),
    "create": whole({"Id": ID, "Warnings": []}, 201),
    "inspect": whole(inspected()),
    "start": whole(b"", 204),
    "logs": head(200, "application/vnd.docker.raw-stream") + frame(b"ValueError: the engine ended\n"),
    "ping": whole(b"OK", 200, "text/plain"),
    "other": whole(b"", 204),
}


@dataclass
class Engine(Hostile):
    """An honest engine, whose container ends at once, except for the pages in *attacks*."""

    asked: list[str] = field(default_factory=list)

    def answer(self, request: bytes, body: bytes) -> Iterator[bytes]:
        method, path = request.split(b" ")[:2]
        self.asked.append(f"{method.decode()} {path.decode()}")
        page = self.page(method.decode(), path.decode().partition("?")[0])
        if page in self.attacks:
            yield from self.attacks[page]()
        else:
            yield HONEST[page]

    @staticmethod
    def page(method: str, path: str) -> str:
        if path.endswith("/version"):
            return "version"
        if path.endswith("/containers/json"):
            return "list"
        if "/images/" in path:
            return "pull" if method == "POST" else "image"
        word = path.rpartition("/")[2]
        if word == "json" and method == "GET":
            return "inspect"
        return {"create": "create", "start": "start", "logs": "logs", "_ping": "ping"}.get(word, "other")


EVERYWHERE = ("endless-body", "drip-body", "array", "nothing", "redirects-to-itself")
ELSEWHERE = (
    *("endless-headers", "drip-headers", "deep-json", "null", "text", "binary", "short-body", "bad-chunks", "no-http"),
    *("closes-at-once", "commands", "gzip-bomb", "long-integer"),
)


def cases(one: str, *others: str) -> list[tuple[str, str]]:
    """Pages with the attacks on them: every attack on *one*, and those that each reader must stand on the *others*."""
    return [(page, name) for page in (one, *others) for name in EVERYWHERE] + [(one, name) for name in ELSEWHERE]


class NoCleanupProcess:
    """The cleanup process would continue to send requests to this engine after the end of the test."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def finish(self, *, all_created: bool) -> None: ...


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(docker, "CleanupProcess", NoCleanupProcess)
    monkeypatch.setattr(docker, "WHOLE_S", 1.0)
    monkeypatch.setattr(container_cleanup, "_WHOLE_S", 0.6)
    monkeypatch.setattr(container, "_SETTLE_S", 0.5)
    monkeypatch.setattr(container, "_OUTLAST_S", 0.1)
    monkeypatch.setattr(log_copy, "MOST_BYTES", 8 * MIB)
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
    yield
    gc.collect()


def launched(tmp_path, attacks: Mapping[str, Answer], boot_s: float = 8.0, **more: Any) -> tuple[str, Engine]:
    """What the launcher says of an engine with *attacks*, and what the engine was asked."""
    mind, grown_mib = Engine(attacks), peak_mib()
    one = factories.deployment(
        backend="miniature",
        image="x:1",
        hardware="cpu",
        model={"name": "m", "weights": "unknown"},
        timeouts={"boot_s": boot_s},
        **more,
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as short, listening(mind, Path(short) / "s") as where:
        took_s = elapsed()
        with pytest.raises(LongctxError) as raised, DockerLauncher(where).up(Launch(Miniature(), one, "m", tmp_path)):
            pass
        assert took_s() < 40
    assert grown_mib() < PEAK_MIB
    return str(raised.value), mind


def test_the_end_of_an_honest_container_is_told(tmp_path):
    said, mind = launched(tmp_path, {})
    assert "the engine ended" in said
    assert any("/logs?" in each for each in mind.asked)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("page", "name"), cases("image", "version", "list", "create", "inspect", "start"))
def test_any_answer_of_an_engine_is_one_message(page, name, tmp_path):
    said, _ = launched(tmp_path, {page: PAGE_ATTACKS[name]}, boot_s=0.8)
    assert "Traceback" not in said
    assert len(said) < 3000
    assert all(line.lstrip()[:2] not in ("::", "##") for line in said.splitlines())


CHUNKED = head(200, "application/json", "Transfer-Encoding: chunked")


def _status(text: str) -> bytes:
    return chunk(json.dumps({"status": text, "id": "a3ed95caeb02"}).encode() + b"\r\n")


def _pull(*pieces: bytes, after: Answer = lambda: iter(())) -> Answer:
    def answer() -> Iterator[bytes]:
        yield CHUNKED
        yield from pieces
        yield from after()

    return answer


PULLS: Mapping[str, tuple[Answer, str]] = {
    "says nothing": (silent, "the last that the engine said: waiting for the registry"),
    "stalls in a layer": (
        _pull(_status("Downloading"), after=silent),
        "the last that the engine said: Downloading a3ed95caeb02",
    ),
    "one byte at a time": (_pull(after=lambda: drip(_status("Waiting") * 9)), "was not pulled within 1"),
    "without end": (
        _pull(after=lambda: endless(_status("Retrying") * 50)),
        "the last that the engine said: Retrying a3ed95caeb02",
    ),
    "one event without end": (_pull(after=lambda: endless(chunk(b"x" * 65536))), "more than 1 MiB"),
    "a chunk of four gigabytes": (_pull(b"ffffffff\r\n", after=lambda: endless(b"x" * MIB)), "more than 1 MiB"),
    "no chunks": (lambda: (head() + piece for piece in endless(b"x" * MIB)), "in one piece, and not event by event"),
    "an error": (_pull(chunk(b'{"error": "::error::toomanyrequests"}\n'), chunk(b"")), "could not be pulled: "),
    "an error in its status": (just(whole({"message": "denied"}, 403)), "x:1 could not be pulled: denied"),
    "no events": (_pull(chunk(b"[1]\n"), chunk(b"")), "does not answer as a Docker engine does"),
    "no JSON": (_pull(chunk(b"hello\n"), chunk(b"")), "does not answer as a Docker engine does"),
    "nothing": (_pull(chunk(b"")), "the image x:1 is not on this machine"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", PULLS)
def test_a_pull_has_an_end_and_says_what_to_do(name, tmp_path):
    attack, message = PULLS[name]
    absent = just(whole({"message": "No such image: x:1"}, 404))
    said, mind = launched(tmp_path, {"image": absent, "pull": attack}, docker={"pull": "missing", "pull_s": 1.0})
    assert any(each.startswith("POST /v1.41/images/create?") for each in mind.asked), mind.asked
    assert message in said
    assert "Traceback" not in said
    if "was not pulled" in said:
        assert "x:1 was not pulled within 1" in said
        assert "docker pull x:1 before the run" in said
        assert "pull_s" in said


LOGS: Mapping[str, Answer] = {
    "a frame of four gigabytes": lambda: iter((head(), frame(b"x" * MIB, 2**32 - 1), *[b"y" * MIB] * 300)),
    "frames without end": lambda: (
        head() + piece if not index else piece for index, piece in enumerate(endless(frame(b"x" * 65536)))
    ),
    "half a frame": just(head() + frame(b"half", 400)),
    "half a head": just(head() + b"\x01\0\0"),
    "an error": just(whole({"message": "::error::no logs"}, 500)),
    "no frames": just(head() + b"plain text\n" * 100),
    "closes": just(b""),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", LOGS)
def test_any_log_of_an_engine_ends_and_is_kept_to_a_limit(name, tmp_path, monkeypatch):
    said, _ = launched(tmp_path, {"logs": LOGS[name]}, boot_s=4.0)
    assert "Traceback" not in said
    (log,) = tmp_path.glob("*.log")
    assert log.stat().st_size < 9 * MIB
    if name == "frames without end":
        assert "the rest was not saved" in log.read_text(encoding="utf-8")[-200:]


@pytest.mark.parametrize(
    "state", [{"ExitCode": "x"}, {"ExitCode": None}, {"Running": "no"}, {"ExitCode": 10**400}, {"Pid": []}]
)
def test_any_state_of_a_container_is_one_message(state, tmp_path):
    said, _ = launched(tmp_path, {"inspect": just(whole(inspected(**state)))}, boot_s=3.0)
    assert "Traceback" not in said


def test_an_engine_that_ignores_the_filter_costs_nobody_a_container(tmp_path):
    """Its list has containers of others, of a run that lives, and of one that has ended: only the last is removed."""
    mine = {container_cleanup.OWNER_LABEL: container_cleanup.owner()}
    ended = {container_cleanup.OWNER_LABEL: f"another-boot {container_cleanup._namespace()} 1 1"}
    rows = [{"Id": "theirs", "Labels": {"com.example": "x"}}, {"Id": "bare", "Labels": None}]
    rows += [{"Id": "mine", "Labels": mine}, {"Id": "ended", "Labels": ended}]
    _, mind = launched(tmp_path, {"list": just(whole(rows))})
    assert [each for each in mind.asked if each.startswith("DELETE")] == ["DELETE /containers/ended?force=1&v=1"]


def test_a_login_that_the_engine_repeats_is_not_shown(tmp_path, monkeypatch):
    secret = "registry-pass-71c09e4d"
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {"registry.invalid": {"auth": base64.b64encode(f"me:{secret}".encode()).decode()}}}),
        encoding="utf-8",
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    said, _ = launched(tmp_path, {"image": just(whole({"message": f"denied for {secret}"}, 500))})
    from pytest_longctx.redaction import shown

    assert "denied for ***" in shown(said)


def test_one_look_at_a_log_is_limited_and_its_last_lines_are_read_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_CHUNK_BYTES", 1000)
    log = tmp_path / "log"
    log.write_text("".join(f"line {index}\n" for index in range(10_000)), encoding="utf-8")
    tail = lines.LogTail(log)
    first = list(tail.more(ended=False))
    assert first[0] == "line 0"
    assert len(first) < 400
    last = list(tail.more(ended=True))
    assert last[-1] == "line 9999"
    assert len(last) < 2000
    tail.close()
