"""
Forward a local port to a Pod's port through the cluster's API, with one web socket for each connection.

It uses the official client's web socket but not its ``portforward``. That one keeps reading while it cannot write, and
copies its whole buffer at each write: a prompt of millions of tokens has tens of megabytes. ``kubectl port-forward``
would be a second program, needed in the right version.
"""

import select
import socket
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from pytest_longctx.launchers.kubernetes.object_cleanup import Api, path_of

_PIECE_BYTES: Final = 64 * 1024
_DATA, _ERROR = 0, 1
_HANDSHAKE_S: Final = 60.0
_SWITCHED: Final = 101
_GREETING_BYTES: Final = 3
"""Length of each channel's greeting: the channel's number, and its port in two bytes."""


class PortForward:
    """Port forward that listens on loopback until the context ends."""

    def __init__(self, api: Api, namespace: str, pod: str, port: int) -> None:
        self._api, self._path, self._far_port = api, path_of("Pod", namespace, pod), port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.last = ""
        """The reason why the last connection failed."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread that waits in accept is not woken by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Forward the data of one connection in both directions until one side closes."""
        with near:
            try:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far = self._open()
            except Exception as problem:  # noqa: BLE001 - several libraries' errors; the caller sees the connection end
                self.last = str(problem) or type(problem).__name__
                return
            try:
                while self._once(near, far):
                    pass
            except Exception as problem:  # noqa: BLE001 - as above
                self.last = str(problem) or type(problem).__name__
            finally:
                far.close(timeout=0)

    def _once(self, near: socket.socket, far: Any) -> bool:
        """Wait for data from either side of the forwarded port and forward it. Return False once a side has closed."""
        waiting = isinstance(far.sock, ssl.SSLSocket) and far.sock.pending()
        ready = [far] if waiting else select.select([near, far.sock], [], [])[0]
        if near in ready:
            data = near.recv(_PIECE_BYTES)
            if not data:
                return False
            far.send_binary(bytes([_DATA]) + data)
        return all(self._hand_on(near, far) for side in ready if side is not near)

    def _hand_on(self, near: socket.socket, far: Any) -> bool:
        _, frame = far.recv_data()
        if not frame:
            return False
        if frame[0] == _ERROR and len(frame) > _GREETING_BYTES:
            self.last = frame[1:].decode("utf-8", "replace")
            return False
        if frame[0] == _DATA:
            near.sendall(frame[1:])
        return True

    def _open(self) -> Any:
        """Return a web socket to the Pod's port, after reading the greetings of both channels."""
        made = self._api.configuration
        scheme, _, rest = made.host.rstrip("/").partition("://")
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/{self._path}/portforward?ports={self._far_port}"
        far = _web_socket(made, url, {**self._api.headers(), "sec-websocket-protocol": "v4.channel.k8s.io"})
        greeted: set[int] = set()
        while greeted != {_DATA, _ERROR}:
            _, frame = far.recv_data()
            if len(frame) != _GREETING_BYTES:
                raise ConnectionError(f"the cluster's API did not forward the port: {frame[:200]!r}")
            greeted.add(frame[0])
        return far


def _web_socket(made: Any, url: str, headers: Mapping[str, str]) -> Any:
    """
    Return a web socket to *url* with the credentials in *headers*, opened as by the official client, but without
    redirects.

    A redirect would send the credentials to another address.
    """
    from kubernetes.stream.ws_client import websocket_proxycare
    from websocket import WebSocket

    trusts: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE}
    if url.startswith("wss://") and made.verify_ssl:
        trusts = {"cert_reqs": ssl.CERT_REQUIRED}
        trusts |= {"ca_certs": made.ssl_ca_cert} if made.ssl_ca_cert else {}
        trusts |= {} if made.assert_hostname is None else {"check_hostname": made.assert_hostname}
    named = {"certfile": made.cert_file, "keyfile": made.key_file, "server_hostname": made.tls_server_name}
    trusts |= {name: value for name, value in named.items() if value}
    options: dict[str, Any] = {"header": [f"{name}: {value}" for name, value in headers.items()]}
    if made.proxy or made.proxy_headers:
        options = websocket_proxycare(options, made, url, headers)
    far: Any = WebSocket(sslopt=trusts, skip_utf8_validation=True)
    far.connect(url, timeout=_HANDSHAKE_S, redirect_limit=0, **options)
    if far.status != _SWITCHED:
        far.close(timeout=0)
        raise ConnectionError(f"the cluster's API did not forward the port: HTTP {far.status}")
    far.settimeout(None)
    return far
