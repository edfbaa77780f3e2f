"""Connections to an API server from what a kubeconfig says about it.

Only `cluster` needs this.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any

import urllib3

__all__ = ["Wire", "connection_pool"]

Wire = dict[str, Any]


def connection_pool(cluster: Wire, user: Wire, folder: Path) -> urllib3.PoolManager:
    """Kept connections, for several threads, that trust the cluster and speak as the user."""
    context = ssl.create_default_context(
        cadata=_material(cluster, "certificate-authority", folder).decode()
    )
    if "token" not in user:
        with tempfile.TemporaryDirectory() as temporary:
            pair = Path(temporary) / "pair.pem"
            pair.touch(mode=0o600)
            parts = [_material(user, f"client-{part}", folder) for part in ("certificate", "key")]
            pair.write_bytes(b"\n".join(parts))
            context.load_cert_chain(pair)
    return urllib3.PoolManager(ssl_context=context, maxsize=8)


def _material(entry: Wire, key: str, folder: Path) -> bytes:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    return Path(folder, entry[key]).read_bytes()
