"""Attacks on the Kubernetes launcher by what answers as the cluster's API: one message, flat memory, an end, no token elsewhere."""

import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.errors import LongctxError
from pytest_longctx.launchers import Launch, kubernetes, log_copy
from pytest_longctx.launchers.kubernetes import KubernetesLauncher, object_cleanup, pods
from pytest_longctx.redaction import shown
from tests.hostile.servers import (
    MIB,
    PAGE_ATTACKS,
    Answer,
    Hostile,
    chunk,
    elapsed,
    endless,
    head,
    just,
    listening,
    peak_mib,
    whole,
)
from tests.hostile.test_engines import NoCleanupProcess, cases
from tests.unit import factories

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""An answer byte by byte is left alone with its connection."""
TOKEN = "cluster-token-51be07d2c94a"
PEAK_MIB = 150
LABELS = {object_cleanup.RUN_LABEL: "RUN"}


def pod(**state: Any) -> dict[str, Any]:
    """The Pod of a run, whose engine has ended."""
    box = {
        "name": "engine",
        "imageID": "x@sha256:1",
        "state": state or {"terminated": {"exitCode": 3, "reason": "Error"}},
    }
    bound = {"type": "PodScheduled", "status": "True"}
    status = {"phase": "Failed", "conditions": [bound], "containerStatuses": [box]}
    return {"metadata": {"name": "p", "labels": LABELS}, "spec": {"nodeName": "n"}, "status": status}


CHUNKED = head(200, "text/plain", "Transfer-Encoding: chunked")
HONEST: Mapping[str, bytes] = {
    "version": whole({"gitVersion": "v1.30.0"}),
    "make": whole({"metadata": {"name": "x", "uid": "u-1"}}, 201),
    "list": whole({"items": []}),
    "pods": whole({"items": [pod()]}),
    "events": whole({"items": []}),
    "log": CHUNKED + chunk(b"ValueError: the engine ended\n") + chunk(b""),
    "delete": whole({"status": "Success"}),
    "forward": whole({"message": "no"}, 400),
}


@dataclass
class Api(Hostile):
    """An honest API with one Pod, whose engine has ended, except for the pages in *attacks*."""

    asked: list[str] = field(default_factory=list)
    run: str = ""

    def answer(self, request: bytes, body: bytes) -> Iterator[bytes]:
        method, path = (word.decode() for word in request.split(b" ")[:2])
        self.asked.append(f"{method} {path}")
        if b'"ConfigMap"' in body:
            self.run = json.loads(body)["metadata"]["labels"][object_cleanup.RUN_LABEL]
        page = self.page(method, path)
        pieces = self.attacks[page]() if page in self.attacks else iter((HONEST[page],))
        # The run's own label is as long as the word that stands for it, or the length would be wrong.
        for piece in pieces:
            yield _labelled(piece, self.run)

    @staticmethod
    def page(method: str, path: str) -> str:
        plain = path.partition("?")[0]
        if method in ("POST", "DELETE"):
            return "make" if method == "POST" else "delete"
        for word in ("version", "events", "log"):
            if plain.endswith(f"/{word}"):
                return word
        if plain.endswith("portforward"):
            return "forward"
        return "pods" if plain.endswith("/pods") else "list"


def _labelled(piece: bytes, run: str) -> bytes:
    if b'"RUN"' not in piece:
        return piece
    top, _, body = piece.partition(b"\r\n\r\n")
    made = body.replace(b'"RUN"', f'"{run}"'.encode())
    return whole(made) if top.startswith(b"HTTP/1.1 200") else piece


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    pytest.importorskip("kubernetes")
    monkeypatch.setattr(kubernetes, "CleanupProcess", NoCleanupProcess)
    monkeypatch.setattr(object_cleanup, "_WHOLE_S", 1.0)
    for name, seconds in (("_LOOK_S", 0.05), ("_LOST_S", 0.5), ("_SETTLE_S", 0.5), ("_LAST_LINES_S", 0.2)):
        monkeypatch.setattr(pods, name, seconds)
    monkeypatch.setattr(log_copy, "MOST_BYTES", 8 * MIB)
    yield
    gc.collect()


def launched(tmp_path, monkeypatch, attacks: Mapping[str, Answer], boot_s: float = 6.0) -> tuple[str, Api]:
    """What the launcher says of a cluster with *attacks*, and what its API was asked."""
    mind, grown_mib = Api(attacks), peak_mib()
    one = factories.deployment(
        backend="miniature",
        image="x:1",
        hardware="cpu",
        model={"name": "m", "weights": "unknown"},
        timeouts={"boot_s": boot_s},
    )
    with listening(mind) as url:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me", "namespace": "serving"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        took_s = elapsed()
        with pytest.raises(LongctxError) as raised, KubernetesLauncher().up(Launch(Miniature(), one, "m", tmp_path)):
            pass
        assert took_s() < 40
    assert grown_mib() < PEAK_MIB
    return str(raised.value), mind


def test_the_end_of_an_honest_pod_is_told(tmp_path, monkeypatch):
    said, mind = launched(tmp_path, monkeypatch, {})
    assert "the engine ended" in said
    assert all(TOKEN.encode() in each for each in mind.heads)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("page", "name"), cases("pods", "version", "make", "list", "events", "log"))
def test_any_answer_of_a_cluster_is_one_message(page, name, tmp_path, monkeypatch):
    said, _ = launched(tmp_path, monkeypatch, {page: PAGE_ATTACKS[name]}, boot_s=0.8)
    assert "Traceback" not in said
    assert len(said) < 3000
    assert all(line.lstrip()[:2] not in ("::", "##") for line in shown(said).splitlines())


ROWS = {
    "a huge list": lambda: iter((whole({"items": [pod()] * 100_000}),)),
    "names of numbers": just(whole({"items": [{"metadata": {"name": 5, "labels": LABELS}}]})),
    "labels of numbers": just(whole({"items": [{"metadata": {"name": "p", "labels": {"a": 1}}}]})),
    "status of text": just(whole({"items": [{**pod(), "status": "x"}]})),
    "conditions of numbers": just(whole({"items": [{**pod(), "status": {"conditions": [1]}}]})),
    "no list": just(whole({"items": {"a": 1}})),
    "an exit code of text": just(whole({"items": [pod(terminated={"exitCode": "x"})]})),
    "an exit code without end": just(whole({"items": [pod(terminated={"exitCode": 10**400})]})),
    "errors": just(whole({"message": "etcd is down"}, 500)),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ROWS)
def test_any_list_of_pods_is_one_message(name, tmp_path, monkeypatch):
    said, _ = launched(tmp_path, monkeypatch, {"pods": ROWS[name]}, boot_s=2.0)
    assert "Traceback" not in said
    assert len(said) < 3000


def _log(*parts: Iterator[bytes]) -> Iterator[bytes]:
    yield CHUNKED
    for part in parts:
        yield from part


LOGS: Mapping[str, Answer] = {
    "without end": lambda: _log(
        endless(
            chunk(
                b"INFO 01-02 03:04:05 [core.py:1] a line of a log of an engine, as long as such lines are on average\n"
                * 600
            )
        )
    ),
    "a chunk of four gigabytes": lambda: _log(iter([b"ffffffff\r\n"]), iter([b"x" * MIB] * 300)),
    "one line without end": lambda: _log(endless(chunk(b"x" * 65536))),
    "no chunks": lambda: iter((head(200, "text/plain"), *[b"y" * MIB] * 200)),
    "an error": just(whole({"message": "::error::no"}, 500)),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", LOGS)
def test_any_log_of_a_pod_ends_and_is_kept_to_a_limit(name, tmp_path, monkeypatch):
    said, _ = launched(tmp_path, monkeypatch, {"log": LOGS[name]}, boot_s=3.0)
    assert "Traceback" not in said
    (log,) = tmp_path.glob("*.log")
    assert log.stat().st_size < 9 * MIB


@pytest.mark.parametrize("page", ["version", "make", "pods", "log", "forward"])
def test_no_token_follows_a_redirect(page, tmp_path, monkeypatch):
    running = just(whole({"items": [pod(running={"startedAt": "x"})]}))
    other = Hostile()
    with listening(other) as elsewhere:
        away = just(whole(b"", 302, "text/plain", f"Location: {elsewhere.replace('127.0.0.1', 'localhost')}/x"))
        launched(tmp_path, monkeypatch, {"pods": running, page: away}, boot_s=1.5)
    assert other.heads == []


def test_a_token_that_the_cluster_repeats_is_not_shown(tmp_path, monkeypatch):
    echo = just(whole({"message": f"Forbidden: Bearer {TOKEN} of {TOKEN}"}, 403))
    said, _ = launched(tmp_path, monkeypatch, {"make": echo})
    assert TOKEN in said
    assert TOKEN not in shown(said)


def test_an_api_that_ignores_the_selector_costs_nobody_an_object(tmp_path, monkeypatch):
    theirs = {"metadata": {"name": "theirs", "labels": {"app": "x"}, "annotations": {object_cleanup.EXPIRES: "1"}}}
    bare = {"metadata": {"name": "bare"}}
    ended = {
        "metadata": {
            "name": "ended",
            "labels": {object_cleanup.RUN_LABEL: "old"},
            "annotations": {object_cleanup.EXPIRES: "1"},
        }
    }
    monkeypatch.setattr(object_cleanup, "PATIENCE_S", 0.5)
    _, mind = launched(tmp_path, monkeypatch, {"list": just(whole({"items": [theirs, bare, ended]}))})
    deleted = {each.rpartition("/")[2] for each in mind.asked if each.startswith("DELETE")}
    assert deleted == {"ended"}
