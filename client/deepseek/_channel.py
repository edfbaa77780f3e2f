"""Settings of a gRPC connection: message sizes, retries, TLS.

Why it exists: both clients open the same kind of channel. Retries are gRPC's own, by service
config: an inference has no side effects. Only UNAVAILABLE and CANCELLED by the server, with which
gRPC answers what reaches it in the moment of its end, can end differently the next time. A channel
connects again as soon as a retry needs it: within gRPC's own pause of 1 s every attempt of a
request would be spent on the first refused connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import grpc
from deepseek_api.errors import ConfigurationError

MAX_MESSAGE_BYTES = 256 << 20
"""Largest answer that a client accepts; gRPC's default of 4 MiB is below one batch of images."""

_RECONNECT_MS = 100
_RECONNECT_MOST_MS = 5_000
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """How a connection is encrypted and who proves to be whom."""

    ca_file: str | Path | None = None
    """PEM file of the authorities that may sign the server; ``None`` uses the system's."""
    certificate_file: str | Path | None = None
    """PEM file of this client's certificate, for servers that ask for one."""
    key_file: str | Path | None = None
    """PEM file of the certificate's private key."""
    server_name: str | None = None
    """Name that the server's certificate must hold, if it is not the host of the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials of a channel.

        Raises:
            ConfigurationError: a file cannot be read, or only one of certificate and key is set.
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigurationError(
                "A client certificate needs its private key and the other way round.",
                hint="Set both 'certificate_file' and 'key_file', or neither.",
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.certificate_file),
        )


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The TLS file '{path}' cannot be read: {error.strerror}.",
            hint="Check the path and its permissions.",
        ) from error


def target_of(url: str) -> str:
    """The gRPC target of an address: ``host:port``, with an optional ``grpc://`` in front.

    Raises:
        ConfigurationError: the address has no port or another scheme.
    """
    target = url.removeprefix("grpc://").removeprefix("grpcs://").rstrip("/")
    host, colon, port = target.rpartition(":")
    if target.startswith("unix:") or (colon and host and port.isdigit() and "/" not in target):
        return target
    raise ConfigurationError(
        f"'{url}' is not the address of a gRPC server.",
        hint="Write host:port, for example 127.0.0.1:8001.",
        reason="InvalidAddress",
    )


def options(tls: TLSConfig | None) -> list[tuple[str, str | int]]:
    """Channel options for a client."""
    chosen: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MOST_MS),
        # Otherwise all clients of a process share one connection, and so one pod of a Service.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if tls is not None and tls.server_name:
        chosen.append(("grpc.ssl_target_name_override", tls.server_name))
    return chosen


def tls_of(url: str, tls: TLSConfig | bool) -> TLSConfig | None:
    """The TLS settings to use; ``True`` and ``grpcs://`` mean the system's authorities."""
    if isinstance(tls, TLSConfig):
        return tls
    return TLSConfig() if tls or url.startswith("grpcs://") else None
