"""The cluster's certificate authority and what it signs, made with the ``openssl`` program.

Why it exists: every component proves who it is with a certificate of one CA, and its user and
groups in Kubernetes are the certificate's common name and organizations. The keys live as long as
the cluster and belong to tests; use nothing of this for a cluster that strangers can reach.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_api.errors import DeepseekError

from deploy.cluster.layout import NETWORK

__all__ = ["IDENTITIES", "Identity", "make_certificates"]

_DAYS = "3650"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate."""

    name: str
    """Files are ``<name>.crt`` and ``<name>.key``."""
    user: str
    """The common name: the user in Kubernetes."""
    group: str = ""
    """The organization: the group in Kubernetes; empty: none."""
    hosts: tuple[str, ...] = ()
    """DNS names and addresses it may serve under."""

    def subject(self) -> str:
        """The subject as openssl writes it."""
        return (f"/O={self.group}" if self.group else "") + f"/CN={self.user}"

    def alternative_names(self) -> str:
        """The value of the subjectAltName extension; empty for clients."""
        return ",".join(
            f"{'IP' if host.replace('.', '').isdigit() else 'DNS'}:{host}" for host in self.hosts
        )


_LOCAL = ("localhost", "127.0.0.1", NETWORK.node_ip)
_API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")

IDENTITIES = (
    Identity(
        "apiserver",
        "kube-apiserver",
        hosts=(
            *_API_NAMES,
            f"kubernetes.default.svc.{NETWORK.domain}",
            NETWORK.node_name,
            NETWORK.api_service_ip,
            *_LOCAL,
        ),
    ),
    Identity("apiserver-kubelet", "kube-apiserver-kubelet", "system:masters"),
    Identity("aggregator", "aggregator"),
    Identity("admin", "kubernetes-admin", "system:masters"),
    Identity("kube-controller-manager", "system:kube-controller-manager", hosts=_LOCAL),
    Identity("kube-scheduler", "system:kube-scheduler", hosts=_LOCAL),
    Identity(
        "kubelet",
        f"system:node:{NETWORK.node_name}",
        "system:nodes",
        hosts=(NETWORK.node_name, *_LOCAL),
    ),
    Identity("kube-proxy", "system:kube-proxy"),
    Identity("coredns", "system:coredns"),
    Identity(
        "metrics-server",
        "system:metrics-server",
        hosts=("metrics-server.kube-system.svc", *_LOCAL),
    ),
    Identity("etcd", "etcd", hosts=_LOCAL),
    Identity("etcd-client", "kube-apiserver-etcd-client"),
)
"""Everybody who takes part."""


def make_certificates(folder: Path, identities: Sequence[Identity] = IDENTITIES) -> None:
    """Write the CA, every identity's certificate and key, and the key of service accounts.

    Raises:
        DeepseekError: openssl failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _openssl(
        [
            *("req", "-x509", *_EC, "-days", _DAYS, "-subj", "/CN=deepseek-cluster-ca"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", "ca.key", "-out", "ca.crt"),
        ],
        folder,
    )
    _openssl(["genrsa", "-out", "service-accounts.key", "2048"], folder)
    _openssl(
        ["rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub"], folder
    )
    for identity in identities:
        _sign(identity, folder)


def _sign(identity: Identity, folder: Path) -> None:
    extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
    if identity.hosts:
        extensions.append(f"subjectAltName={identity.alternative_names()}")
    added = [part for extension in extensions for part in ("-addext", extension)]
    _openssl(
        [
            *("req", "-x509", *_EC, "-days", _DAYS, "-subj", identity.subject(), *added),
            *("-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-keyout", f"{identity.name}.key", "-out", f"{identity.name}.crt"),
        ],
        folder,
    )


def _openssl(arguments: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        ["openssl", *arguments], check=False, cwd=folder, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DeepseekError(
            f"openssl {arguments[0]} failed: {done.stderr.strip()}",
            hint="OpenSSL 3.0 or newer is needed.",
            reason="CertificatesFailed",
        )
