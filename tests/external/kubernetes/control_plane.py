"""A real kube-apiserver with etcd for tests; ``.ci/kube-apiserver`` builds the former and installs the latter."""

import os
import subprocess
import time
from pathlib import Path

import yaml

from pytest_longctx import paths
from pytest_longctx.processes.ports import free_ports

KEPT = paths.kept() / "kubernetes"


def certificate(folder, name):
    """Return a self-signed certificate and its key."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(made, check=True, capture_output=True)
    return crt, key


class ControlPlane:
    """An API server on loopback, with kubeconfigs of an administrator, of a user without rights, and of a member."""

    def __init__(self, folder: Path):
        self.folder = folder
        (self.port,) = free_ports(1)
        self.processes: list[subprocess.Popen[bytes]] = []
        crt, key = certificate(folder, "apiserver")
        tokens = folder / "tokens.csv"
        tokens.write_text('sesame,admin,1,"system:masters"\nnobody,nobody,2\nmember,member,3\n')
        etcd, peer = free_ports(2)
        self._start(
            "etcd",
            str(KEPT / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )
        self._server = [
            str(KEPT / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--insecure-port=0",
            f"--tls-cert-file={crt}",
            f"--tls-private-key-file={key}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://test",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            f"--cert-dir={folder}",
        ]
        self.serve()
        self.admin, self.nobody = self.kubeconfig("admin", "sesame"), self.kubeconfig("nobody", "nobody")
        self.member = self.kubeconfig("member", "member")

    def _start(self, name, *argv):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder))

    def serve(self):
        """Start the API server."""
        self._start("apiserver", *self._server)

    def kubeconfig(self, user, token):
        server = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.folder / "apiserver.crt"),
        }
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": server}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": user, "namespace": "default"}}],
        }
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(yaml.safe_dump(made))
        return str(path)

    def api(self):
        """Return the API once it is ready and has its namespaces."""
        from pytest_longctx.launchers.kubernetes.object_cleanup import Api

        os.environ["KUBECONFIG"] = self.admin
        made, end = Api(), time.monotonic() + 90
        while True:
            try:
                if made.call("GET", "readyz")[0] == 200 and made.call("GET", "api/v1/namespaces/default")[0] == 200:
                    return made
            except OSError:
                pass
            assert time.monotonic() < end, (self.folder / "apiserver.log").read_text()[-3000:]
            time.sleep(0.2)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)
