"""A real API server for tests: etcd, kube-apiserver and (on demand) kube-controller-manager.

The binaries come from the folders in ``DEEPSEEK_TEST_KUBE_BIN`` (separated by ``:``); etcd may be
called ``etcd`` or ``server``. Everything listens on free loopback ports, with throwaway
certificates, below a temporary folder. There are no nodes, so pods are made and stay pending.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.worker import until

__all__ = ["ApiServer", "binaries"]

_NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager")
_OTHER_NAMES = {"etcd": ("etcd", "server")}


def binaries() -> dict[str, Path] | None:
    """The programs of a control plane by name, or None when one is missing."""
    folders = [Path(part) for part in os.environ.get("DEEPSEEK_TEST_KUBE_BIN", "").split(":")]
    found: dict[str, Path] = {}
    for name in _NEEDED:
        for folder in folders:
            for candidate in _OTHER_NAMES.get(name, (name,)):
                path = folder / candidate
                if folder.name and path.is_file() and os.access(path, os.X_OK):
                    found.setdefault(name, path)
        if name not in found and (installed := shutil.which(name)):
            found[name] = Path(installed)
    return found if len(found) == len(_NEEDED) else None


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ApiServer:
    """A control plane without nodes; a context manager.

    Args:
        programs: from `binaries`.
        folder: an empty folder for state, certificates and logs.
    """

    def __init__(self, programs: Mapping[str, Path], folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()

    def __enter__(self) -> Self:
        try:
            self._certificates()
            self._start_etcd()
            self.start()
            self._start_controllers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._stop(name)

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """Settings file of an administrator."""
        return self.kubeconfig_for("admin")

    def kubeconfig_for(self, user: str, *, token: str | None = None) -> Path:
        """Settings file of a user, by certificate or by token."""
        path = self._folder / f"{user}.kubeconfig"
        credentials = (
            {"token": token}
            if token
            else {
                "client-certificate": str(self._folder / f"{user}.crt"),
                "client-key": str(self._folder / f"{user}.key"),
            }
        )
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": str(self._folder / "ca.crt"),
                    },
                }
            ],
            "users": [{"name": "test", "user": credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def start(self) -> None:
        """Start the API server and wait until it is ready."""
        folder = self._folder
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--client-ca-file={folder}/ca.crt",
            f"--tls-cert-file={folder}/server.crt",
            f"--tls-private-key-file={folder}/server.key",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
        )
        until(self._ready, timeout_s=60, what="the API server's readiness")

    def stop(self) -> None:
        """Stop the API server; its data stay."""
        self._stop("kube-apiserver")

    def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request as an administrator; YAML text is applied as it is.

        Raises:
            urllib.error.HTTPError: the server refused.
        """
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else data,
            headers={"Content-Type": content_type},
        )
        with urllib.request.urlopen(request, context=self._context(), timeout=30) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def get(self, path: str) -> dict[str, Any] | None:
        """An object, or None."""
        try:
            return self.request("GET", path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str = "test") -> dict[str, Any]:
        """Server-side apply."""
        return self.request(
            "PATCH",
            f"{path}?fieldManager={manager}&force=true",
            body,
            content_type="application/apply-patch+yaml",
        )

    def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge patch."""
        return self.request("PATCH", path, body, content_type="application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone already is fine."""
        try:
            self.request("DELETE", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        context.load_cert_chain(self._folder / "admin.crt", self._folder / "admin.key")
        return context

    def _ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        if process.poll() is not None:
            raise AssertionError(f"the API server ended:\n{self.log('kube-apiserver')[-4000:]}")
        request = urllib.request.Request(f"{self.url}/readyz")
        try:
            with urllib.request.urlopen(request, context=self._context(), timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def log(self, name: str) -> str:
        """What a program wrote."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _start_etcd(self) -> None:
        self._run(
            "etcd",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync",
        )

    def _start_controllers(self) -> None:
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=false",
            f"--service-account-private-key-file={self._folder}/sa.key",
            "--controllers=deployment-controller,replicaset-controller,garbage-collector-controller,"
            "serviceaccount-controller,namespace-controller,disruption-controller",
        )

    def _run(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._programs[name]), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _certificates(self) -> None:
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
                      "-subj", "/CN=test-ca")  # fmt: skip
        self._openssl("genrsa", "-out", "sa.key", "2048")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.96.0.1"
        self._certificate("server", "/CN=kube-apiserver", names)
        self._certificate("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth")

    def _certificate(self, name: str, subject: str, extension: str) -> None:
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(extension + "\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr",
                      "-subj", subject)  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                      "-CAcreateserial", "-out", f"{name}.crt", "-days", "2",
                      "-extfile", str(extensions))  # fmt: skip

    def user(self, name: str) -> Path:
        """Settings file of a new user without permissions."""
        self._certificate(name, f"/CN={name}", "extendedKeyUsage=clientAuth")
        return self.kubeconfig_for(name)

    def _openssl(self, *arguments: Sequence[str] | str) -> None:
        subprocess.run(
            ["openssl", *map(str, arguments)], cwd=self._folder, check=True, capture_output=True
        )
