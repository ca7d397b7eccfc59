"""
Simulated scheduler and node: a Pod is bound, its command runs as a local process, its status is written, and its log and port are
served to the API server. There is no container. Images with special names fail as their names indicate.
"""

import base64
import hashlib
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from pytest_longctx.launchers.kubernetes.object_cleanup import path_of

NODE = "node-a"
PULLS = {"absent": "ErrImagePull", "backoff": "ImagePullBackOff"}


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _signal(process, number):
    """Send a signal to every process of a container, which has a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class Kubelet:
    """The only node of a cluster, with its scheduler."""

    def __init__(self, api, folder, certificate):
        self.api, self.folder, self.running, self._stop = api, folder, {}, threading.Event()
        self.paused = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._serving())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        status, answer = api.call(
            "POST", "api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        )
        assert status == 201, answer
        place = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        self.patch(f"api/v1/nodes/{NODE}/status", {"status": place})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join()
        self._http.shutdown()
        self._http.server_close()
        for process, _ in self.running.values():
            _signal(process, signal.SIGKILL)

    def patch(self, path, body):
        """Apply a strategic merge patch, as kubelets send it."""
        url = f"{self.api.configuration.host}/{path}"
        headers = {**self.api.headers(), "Content-Type": "application/strategic-merge-patch+json"}
        import json

        answer = self.api._pool.request("PATCH", url, body=json.dumps(body), headers=headers)
        assert answer.status in (200, 404, 409), answer.data

    def status(self, pod, **status):
        meta = pod["metadata"]
        self.patch(f"{path_of('Pod', meta['namespace'], meta['name'])}/status", {"status": status})

    def state(self, pod, phase, state, **more):
        box = {
            "name": "engine",
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "sha256:0123",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        # A strategic merge would keep fields of the previous state.
        for other in {"waiting", "running", "terminated"} - set(state):
            box["state"][other] = None
        self.status(pod, phase=phase, containerStatuses=[box], **more)

    def event(self, pod, reason, message):
        meta = pod["metadata"]
        about = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
        made = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "e-"},
            "involvedObject": about,
            "reason": reason,
            "message": message,
            "type": "Warning",
        }
        assert self.api.call("POST", f"api/v1/namespaces/{meta['namespace']}/events", made)[0] == 201

    def _run(self):
        while not self._stop.wait(0.1):
            try:
                _, found = self.api.call("GET", "api/v1/pods")
                for pod in () if self.paused else found.get("items") or []:
                    self._once(pod)
            except OSError:
                pass

    def _once(self, pod):
        meta, status = pod["metadata"], pod["status"]
        held = self.running.get(meta["uid"])
        if "deletionTimestamp" in meta:
            if held is not None and held[0].poll() is None:
                _signal(held[0], signal.SIGTERM)
                return
            if held is not None:
                _signal(held[0], signal.SIGKILL)  # no process of a container outlives its first one
            self.api.call(
                "DELETE",
                path_of("Pod", meta["namespace"], meta["name"]),
                {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0},
            )
        elif "nodeName" not in pod["spec"]:
            self._schedule(pod)
        elif held is None and status["phase"] == "Pending":
            self._begin(pod)
        elif held is not None and held[0].poll() is not None and status["phase"] == "Running":
            code = held[0].returncode
            memory = code == -signal.SIGKILL and "oom" in pod["spec"]["containers"][0]["image"]
            ended = {
                "exitCode": 128 - code if code < 0 else code,
                "reason": "OOMKilled" if memory else "Error" if code else "Completed",
            }
            self.state(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    def _schedule(self, pod):
        meta = pod["metadata"]
        if pod["spec"].get("nodeSelector"):
            said = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity."
            self.status(
                pod,
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}],
            )
            return
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        bound = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": target}
        self.api.call("POST", f"{path_of('Pod', meta['namespace'], meta['name'])}/binding", bound)

    def _begin(self, pod):
        box, meta = pod["spec"]["containers"][0], pod["metadata"]
        name = box["image"].partition(":")[0].rpartition("/")[2]
        if name in PULLS:
            self.state(
                pod,
                "Pending",
                {"waiting": {"reason": PULLS[name], "message": f"Back-off pulling image {box['image']!r}"}},
            )
            return
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        for each in box["env"]:
            value = self._value(meta["namespace"], each)
            if value is None and not each["valueFrom"]["secretKeyRef"].get("optional"):
                self.state(
                    pod, "Pending", {"waiting": {"reason": "CreateContainerConfigError", "message": "secret not found"}}
                )
                return
            env |= {} if value is None else {each["name"]: value}
        argv = [expanded(word, env) for word in (*box["command"], *box["args"])]
        log = self.folder / f"{meta['uid']}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv, env=env, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.running[meta["uid"]] = (process, log)
        self.running[meta["namespace"], meta["name"]] = (process, log)
        self.state(pod, "Running", {"running": {"startedAt": now()}})

    def _value(self, namespace, each):
        if "value" in each or "valueFrom" not in each:
            return each.get("value", "")
        if "fieldRef" in each["valueFrom"]:
            return "127.0.0.1"  # status.podIP is the only field that is asked for
        chosen = each["valueFrom"]["secretKeyRef"]
        status, found = self.api.call("GET", path_of("Secret", namespace, chosen["name"]))
        data = (found.get("data") or {}).get(chosen["key"]) if status == 200 else None
        return None if data is None else base64.b64decode(data).decode()

    def _serving(self):
        running = self.running

        class Serving(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                parts = urlsplit(self.path)
                what, namespace, name = parts.path.strip("/").split("/")[:3]
                if what == "portForward":
                    forward(self, int(parse_qs(parts.query)["port"][0]))
                else:
                    self._log(*running[namespace, name])

            def _log(self, process, log):
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with log.open("rb") as file:
                    over = False
                    while not over:
                        over = process.poll() is not None
                        while data := file.read(65536):
                            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                        time.sleep(0.05)
                self.wfile.write(b"0\r\n\r\n")

        return Serving


def expanded(word, env):
    """Expand ``$(NAME)`` like a kubelet."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda found: "$" if found[1] == "$" else env.get(found[2], found[0]), word)


def forward(asked, port):
    """
    Forward a port over a web socket: each message starts with a channel number, the first message of a channel contains its
    port.
    """
    reported = hashlib.sha1(
        (asked.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
    ).digest()
    asked.send_response(101)
    for name, value in (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", base64.b64encode(reported).decode()),
        ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
    ):
        asked.send_header(name, value)
    asked.end_headers()
    asked.close_connection = True
    out = threading.Lock()

    def send(channel, data, kind=2):
        data = (bytes([channel]) if kind == 2 else b"") + data
        size = len(data)
        head = bytes([0x80 | kind]) + (
            bytes([size])
            if size < 126
            else b"\x7e" + struct.pack(">H", size)
            if size < 65536
            else b"\x7f" + struct.pack(">Q", size)
        )
        with out:
            asked.wfile.write(head + data)

    send(0, struct.pack("<H", port))
    send(1, struct.pack("<H", port))
    try:
        far = socket.create_connection(("127.0.0.1", port))
    except OSError as problem:
        send(1, str(problem).encode())
        return

    def back():
        try:
            while data := far.recv(65536):
                send(0, data)
            send(0, b"", kind=8)
        except OSError:
            pass

    threading.Thread(target=back, daemon=True).start()
    with far:
        while True:
            head = asked.rfile.read(2)
            if len(head) < 2 or head[0] & 15 == 8:
                return
            size = head[1] & 127
            size = (
                struct.unpack(">H", asked.rfile.read(2))[0]
                if size == 126
                else struct.unpack(">Q", asked.rfile.read(8))[0]
                if size == 127
                else size
            )
            mask, data = asked.rfile.read(4), asked.rfile.read(size)
            keys = (mask * (size // 4 + 1))[:size]
            plain = (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
            if head[0] & 15 == 2:
                far.sendall(plain[1:])
