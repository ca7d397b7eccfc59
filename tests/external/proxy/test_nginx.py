"""nginx between client and server: ``.ci/nginx``, then ``pytest tests/external/proxy``."""

import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment, Model, Timeouts
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import url
from pytest_longctx.processes.ports import free_ports

CONF = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    {limits}
    location / {{ proxy_pass http://127.0.0.1:{behind}; }}
  }}
}}
"""


class Slow(BaseHTTPRequestHandler):
    """A server that delays long answers and refuses unknown models."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known = b"no-such-model" not in body
        if known:
            time.sleep(4)
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


@pytest.fixture
def behind_nginx(tmp_path):
    """``behind_nginx("client_max_body_size 1m;")``: a server behind nginx with these limits."""
    started = []

    def start(limits):
        slow = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        (port,) = free_ports(1)
        conf = tmp_path / "nginx.conf"
        conf.write_text(CONF.format(folder=tmp_path, port=port, behind=slow.server_port, limits=limits))
        started.append((slow, subprocess.Popen(["/usr/sbin/nginx", "-c", str(conf)])))
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        patient = Timeouts(slowest_prefill_tokens_per_s=1000)
        one = Deployment(name="d", title="t", backend="openai", model=Model(name="m"), timeouts=patient)
        return Server(f"http://127.0.0.1:{port}", "m", OpenAI(), one, "url", local=False, attached=True)

    yield start
    for slow, nginx in started:
        nginx.terminate()
        nginx.wait()
        slow.shutdown()
        slow.server_close()


def test_a_small_body_limit_is_found_before_a_prompt_is_sent(behind_nginx):
    server = behind_nginx("client_max_body_size 1m;")
    url.check_proxy(server, 15_000)
    with pytest.raises(LaunchError, match=r"rejects a request of 8\.0 MB(.|\n)*413 Request Entity Too Large"):
        url.check_proxy(server, 1_000_000)


def test_a_short_idle_limit_is_found(behind_nginx, monkeypatch):
    monkeypatch.setattr(url, "SILENCE_S", 3.0)
    monkeypatch.setattr(url, "_WORTH_IT_S", 0.0)
    server = behind_nginx("client_max_body_size 0; proxy_read_timeout 1s;")
    with pytest.raises(LaunchError, match=r"without data(.|\n)*found    HTTP 504, before 3"):
        url.check_proxy(server, 1_000_000)


def test_a_patient_proxy_passes(behind_nginx, monkeypatch):
    monkeypatch.setattr(url, "SILENCE_S", 2.0)
    monkeypatch.setattr(url, "_WORTH_IT_S", 0.0)
    url.check_proxy(behind_nginx("client_max_body_size 0; proxy_read_timeout 1h;"), 1_000_000)


def test_loopback_is_not_kept_waiting(behind_nginx):
    server = behind_nginx("client_max_body_size 0; proxy_read_timeout 1s;")
    url.check_proxy(Server(server.url, "m", OpenAI(), server.deployment, "url", local=True, attached=True), 1_000_000)
