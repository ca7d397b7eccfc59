"""A correct hosted API in miniature behind real gateways: nginx, and LiteLLM where ``.ci/litellm`` installed it."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from pytest_longctx import paths
from pytest_longctx.certificate import run
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.processes.ports import free_ports
from tests.external.proxy.test_nginx import CONF
from tests.unit.miniatures.hosted import caller

LITELLM = paths.kept() / "litellm" / "bin" / "litellm"
PROXY = """
model_list:
  - model_name: miniature
    litellm_params: {{model: openai/miniature, api_base: "{url}/v1", api_key: right}}
general_settings: {{master_key: sk-right}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


@contextmanager
def running(command, url, **environment):
    """Run a proxy until the block ends; it is ready once it answers anything at *url*."""
    process = subprocess.Popen(command, env=os.environ | environment, start_new_session=True)
    try:
        for _ in range(1500):  # LiteLLM loads for a minute and more
            try:
                httpx.get(url, timeout=2)
                break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def behind_nginx(stack, folder, limits, **options):
    """Return the URL of nginx with *limits* before a correct API with *options*."""
    asked, (port,) = caller.start(stack, "honest", **options), free_ports(1)
    conf = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the worker writes large bodies to this folder
    conf.write_text(user + CONF.format(folder=folder, port=port, behind=asked.url.rsplit(":", 1)[1], limits=limits))
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(running(["/usr/sbin/nginx", "-c", str(conf)], url))
    return url


def broken(url, key, monkeypatch, *, claim=8192, deadline_s=20.0):
    """Certify *url*; returns the broken checks, and all results by their check."""
    monkeypatch.setenv("LONGCTX_API_KEY", key)
    wanted = run.Wanted(url, "miniature", claim=claim, budget=Budget(2_000_000), seed=3, deadline_s=deadline_s)
    results = run.certify(wanted, wanted.wire()).results
    return {each.check for each in results if each.word == "broken"}, {each.check: each for each in results}


def test_nginx_with_its_defaults_breaks_nothing(stack, tmp_path, monkeypatch):
    url = behind_nginx(stack, tmp_path, "", limit=8192, latency=Latency(decode_tokens_per_s=160))
    found, results = broken(url, "right", monkeypatch)
    assert found == set()
    assert results["time-stream"].word == "holds"


def test_a_body_limit_of_nginx_shortens_the_context(stack, tmp_path, monkeypatch):
    url = behind_nginx(stack, tmp_path, "client_max_body_size 24k;", limit=8192)
    found, results = broken(url, "right", monkeypatch, claim=None)
    assert found == {"error-length-text"}
    assert "413 Request Entity Too Large" in results["error-length-text"].seen
    assert broken(url, "right", monkeypatch)[0] >= {"length-claim"}


def test_a_long_prefill_that_nginx_ends_is_not_called_served(stack, tmp_path, monkeypatch):
    limits = "client_max_body_size 0; proxy_read_timeout 1s;"
    url = behind_nginx(stack, tmp_path, limits, limit=8192, latency=Latency(prefill_tokens_per_s=4000))
    found, results = broken(url, "right", monkeypatch)
    assert found <= {"time-silence", "error-cut", "length-claim"}
    assert results["time-silence"].word != "holds"
    assert results["length-claim"].word != "holds"


@pytest.mark.skipif(not LITELLM.exists(), reason=".ci/litellm was not run")
def test_litellm_answers_400_to_a_wrong_key_and_passes_the_rest_on(stack, tmp_path, monkeypatch):
    asked, (port,) = caller.start(stack, "honest", limit=8192), free_ports(1)
    config = tmp_path / "litellm.yaml"
    config.write_text(PROXY.format(url=asked.url))
    url = f"http://127.0.0.1:{port}"
    command = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    stack.enter_context(running(command, url, LITELLM_LOG="ERROR"))
    found, results = broken(url, "sk-right", monkeypatch)
    assert found == {"error-key"}, [results[check] for check in found]
    assert results["error-key"].seen == "HTTP 400 No connected db."
