"""The command line of a hosted API in miniature."""

import os
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from pytest_longctx.miniatures.hosted import __main__ as command
from pytest_longctx.miniatures.hosted.latency import Latency


@contextmanager
def running(*arguments, module="pytest_longctx.miniatures.hosted", **environment):
    """Run the command; yields the URL that it prints."""
    line = [sys.executable, "-m", module, "--port", "0", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def ask(url, text, key="right"):
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def test_it_serves_what_it_is_told():
    options = ("--model", "tiny", "--limit", "64", "--key-env", "MINI_KEY", "--refusal", "moonshot", "--listed", "99")
    with running(*options, MINI_KEY="right") as url:
        assert ask(url, "Count from 1 to 3.").json()["choices"][0]["message"]["content"] == "1, 2, 3"
        assert ask(url, "Hi", key="wrong").status_code == 401
        assert ask(url, " the" * 80).json()["error"]["message"].startswith("Invalid request: Your request exceeded")
        listing = httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer right"}).json()["data"][0]
        assert listing["context_length"] == 99


def test_a_fault_is_started_with_its_second_host():
    with running("--fault", "redirects-elsewhere", "--model", "tiny") as url:
        reply = ask(url, "Hi")
        assert reply.status_code == 307
        assert reply.headers["location"].startswith("http://localhost:")
        assert ask(reply.headers["location"].removesuffix("/v1/chat/completions"), "Hi").status_code == 200


def test_a_gateway_is_started_before_it():
    module = "pytest_longctx.miniatures.hosted.gateway"
    with (
        running("--model", "tiny") as upstream,
        running("--upstream", upstream, "--body-limit-bytes", "1000", module=module) as url,
    ):
        assert ask(url, "Hi").status_code == 200
        assert ask(url, " the" * 300).status_code == 413


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--latency", "gauss:1"], "allowed are none, fixed:S"),
        (["--latency", "fixed:1,2"], "allowed are none, fixed:S"),
        (["--key-env", "NO_SUCH_KEY"], "that variable is not set"),
        (["--fault", "no-such-fault"], "invalid choice"),
    ],
)
def test_wrong_options_are_explained(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["hosted", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [("none", 0, 0), ("fixed:0.25", 0.25, 0.25), ("uniform:1,2", 1, 2), ("lognormal:0.1,0.5", 0, 5)],
)
def test_delays_follow_their_distribution_and_seed(spec, low, high):
    drawn = [Latency(spec, seed=7).draw_s() for _ in range(2)]
    many = Latency(spec, seed=8)
    assert drawn[0] == drawn[1]
    assert all(low <= many.draw_s() <= high for _ in range(200))
