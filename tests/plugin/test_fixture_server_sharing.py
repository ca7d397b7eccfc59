"""One server for each deployment, booted once and stopped before the next boots; servers given by URL are shared."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_longctx.client.server import exclusive
from pytest_longctx.processes.ports import free_ports

FOLLOW = """
import pytest

from pytest_longctx.client.server import exclusive
from contextlib import contextmanager
from pytest_longctx.launchers.process import ProcessLauncher

class Told(ProcessLauncher):
    @contextmanager
    def up(self, launch):
        with super().up(launch) as server:
            note("up", launch.deployment.name)
            yield server
        note("down", launch.deployment.name)

def note(*words):
    with open("story", "a") as out:
        print(*words, file=out)

def pytest_longctx_make_launcher(kind):
    return Told() if kind == "told" else None
"""


def test_each_deployment_boots_once_and_is_down_before_the_next_comes_up(run, pytester):
    pytester.syspathinsert()
    pytester.makepyfile(of_project=FOLLOW)
    done = run("--backend=miniature", "-m", "ten_k or prefix_cache", "--longctx-launcher=told", "-p", "of_project")
    assert done.outcome.ret == 0
    story = (pytester.path / "story").read_text().splitlines()
    names = [line.split()[1] for line in story[::2]]
    assert sorted(names) == ["miniature", "miniature-forgetful"]
    assert story == [f"{what} {name}" for name in names for what in ("up", "down")]


@pytest.fixture
def running():
    """An externally started miniature, given by URL."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pytest_longctx.miniatures", "--port", str(port), "--max-model-len", "65536"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        base = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{base}/health")
                break
            except OSError:
                time.sleep(0.05)
        yield base
        process.kill()


def test_a_running_server_is_judged_where_it_is(run, running):
    done = run("--backend=openai", f"--longctx-launcher=url:{running}/v1", "-m", "smoke or limits")
    found = {row["finding"]: row["verdict"] for row in done.results.verdicts}
    assert found == {"LC-0001": "holds", "LC-0020": "holds", "LC-0021": "holds", "LC-0022": "holds", "LC-0030": "holds"}
    (boot,) = done.results.boots
    assert boot["launcher"] == "url"
    assert boot["model"] == "miniature (unknown weights)"
    assert boot["hardware"] == "unknown"


def test_workers_share_a_running_server(run, running):
    done = run("--backend=vllm", f"--longctx-launcher=url:{running}", "-m", "smoke or limits", "-n2")
    done.outcome.assert_outcomes(passed=5)


def test_a_running_server_that_is_not_what_the_deployment_says_is_refused(run, running, pytester):
    message = 'name = "mine"\ntitle = "t"\nbackend = "vllm"\nmax_model_len = 4096\n[model]\nname = "miniature"\n'
    (pytester.path / "mine.toml").write_text(message)
    done = run("--backend=vllm", f"--longctx-launcher=url:{running}", "--longctx-deployment=mine.toml", "-m", "smoke")
    assert "serves max_model_len 65,536; the deployment mine says 4,096" in done.text
    assert done.outcome.parseoutcomes()["errors"] == 3


def test_nobody_at_the_url_judges_nothing(run):
    """A wrong address is an environment problem, not a broken finding."""
    done = run("--backend=openai", "--longctx-launcher=url:http://127.0.0.1:9", "-m", "smoke")
    assert "attached did not become ready" in done.text
    assert "Connection refused" in done.text
    assert "Traceback" not in done.text
    assert done.outcome.parseoutcomes()["errors"] == 2
    assert not (done.folder / "results" / "results.jsonl").exists()


ODD = {
    "HTML": (200, b"<html>hello</html>"),
    "a login": (401, b"no"),
    "a list": (200, b"[]"),
    "no models": (200, b'{"data": null}'),
    "words for models": (200, b'{"data": ["a"]}'),
}


@pytest.mark.parametrize(("status", "body"), ODD.values(), ids=ODD)
def test_a_stranger_at_the_url_judges_nothing(run, pytester, status, body):
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    message = 'name = "mine"\ntitle = "t"\nbackend = "openai"\n[model]\nname = "m"\n[timeouts]\nboot_s = 0.7\n'
    (pytester.path / "mine.toml").write_text(message)
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"--longctx-launcher=url:http://127.0.0.1:{server.server_port}"
        done = run("--backend=openai", where, "--longctx-deployment=mine.toml", "-m", "smoke")
        server.shutdown()
    assert "mine did not become ready" in done.text
    assert "Traceback" not in done.text
    assert not (done.folder / "results" / "results.jsonl").exists()


def test_a_server_that_echoes_the_key_does_not_leak_it(run, monkeypatch, pytester):
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m", "max_model_len": 4096}]}')

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400 if b"stream" in body else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"error": {"message": f"bad key {self.headers['Authorization']}"}}).encode())

        def log_message(self, *args):
            pass

    monkeypatch.setenv("LONGCTX_API_KEY", "s3cret-of-mine")
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"--longctx-launcher=url:http://bob:hunter22@127.0.0.1:{server.server_port}"
        done = run("--backend=openai", where, "-k", "LC-0001", "--junitxml=r.xml")
        server.shutdown()
    written = done.text + "".join(p.read_text() for p in (done.folder / "results").rglob("*") if p.is_file())
    written += (done.folder / "r.xml").read_text()
    assert "bad key Bearer ***" in written
    assert "s3cret" not in written
    assert "hunter22" not in written


def test_an_api_key_is_sent_and_never_shown(run, running, monkeypatch):
    monkeypatch.setenv("LONGCTX_API_KEY", "s3cret-of-mine")
    done = run("--backend=openai", f"--longctx-launcher=url:{running}", "-m", "smoke", "--junitxml=r.xml", "-vv", "-l")
    assert done.outcome.ret == 0
    for path in ("r.xml", "results/results.jsonl"):
        assert "s3cret" not in (done.folder / path).read_text()
    assert "s3cret" not in done.text


def test_a_secret_in_the_environment_of_a_server_is_never_shown(run, pytester, faulty, monkeypatch):
    chosen = faulty("exits-at-boot")
    path = pytester.path / "faulty.toml"
    path.write_text(path.read_text().replace('backend = "miniature"', 'backend = "miniature"\npass_env = ["HF_TOKEN"]'))
    path.write_text(path.read_text() + '\n[env]\nMY_API_KEY = "k3y-of-mine"\n')
    monkeypatch.setenv("HF_TOKEN", "hf_t0ken")
    done = run("--backend=miniature", chosen, "-m", "smoke", "-vv", "-l")
    assert "MY_API_KEY='***'" in done.text or "MY_API_KEY=***" in done.text
    written = done.text + "".join(p.read_text() for p in (done.folder / "results").rglob("*") if p.is_file())
    assert "k3y-of-mine" not in written
    assert "hf_t0ken" not in written


def test_a_server_inherits_only_what_it_needs(monkeypatch):
    """With CI set, SGLang accepts contexts it would refuse otherwise; a secret that is not passed on cannot leak."""
    from pytest_longctx.backends import Recipe
    from pytest_longctx.processes import environment

    recipe = Recipe("r", (), {"VLLM_X": "1"}, 1, "m", 1.0, pass_env=("WANTED",))
    inherited = {"PATH": "/bin", "CI": "true", "AWS_SECRET": "x", "WANTED": "y", "HF_TOKEN": "t"}
    assert environment(recipe, inherited) == {"PATH": "/bin", "WANTED": "y", "VLLM_X": "1", "PYTHONUNBUFFERED": "1"}
    assert os.environ.get("PATH")


def test_whoever_measures_a_server_keeps_the_others_waiting():
    asked, order = threading.Event(), []

    def second():
        asked.set()
        with exclusive("http://127.0.0.1:1"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with exclusive("http://127.0.0.1:1"), exclusive("http://127.0.0.1:2"):
        waiting.start()
        asked.wait()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
