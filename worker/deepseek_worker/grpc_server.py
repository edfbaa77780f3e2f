"""The gRPC server of a worker: its options, its services and its port.

Why it exists: all that is particular to the transport is in one place. Services know nothing of it.
"""

from __future__ import annotations

import errno
import socket

import grpc.aio
from deepseek_api.errors import ConfigurationError
from deepseek_protos import inference_pb2_grpc, vllm_engine_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from deepseek_worker.config import Limits
from deepseek_worker.health import Health
from deepseek_worker.interceptor import StatusInterceptor
from deepseek_worker.reflection import add_reflection

__all__ = ["bind", "build_server", "check_port", "dial_address", "port_error"]


def build_server(
    service: inference_pb2_grpc.GRPCInferenceServiceServicer,
    health: Health,
    *,
    limits: Limits,
    vllm: vllm_engine_pb2_grpc.VllmEngineServicer | None = None,
) -> grpc.aio.Server:
    """A server with inference, health and reflection that is not bound yet.

    Args:
        service: answers the Open Inference Protocol.
        health: answers ``grpc.health.v1``.
        limits: of messages and connections.
        vllm: answers gateways; None: they are not answered.
    """
    server = grpc.aio.server(interceptors=[StatusInterceptor()], options=_options(limits))
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    if vllm is not None:
        vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(vllm, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_reflection(server)
    return server


def bind(server: grpc.aio.Server, *, host: str, port: int) -> int:
    """Bind the server and give its port.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    check_port(host=host, port=port, purpose="gRPC", flag="--grpc-port")
    try:
        return server.add_insecure_port(_address(host, port))
    except RuntimeError:
        raise ConfigurationError(
            f"gRPC cannot listen on {_address(host, port)}.",
            hint="Choose another address with --host or another port with --grpc-port.",
        ) from None


def check_port(*, host: str, port: int, purpose: str, flag: str) -> None:
    """Try an address, because gRPC's own failure says nothing about the cause.

    Raises:
        ConfigurationError: the address cannot be used; the sentence says why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise port_error(error, host=host, port=port, purpose=purpose, flag=flag) from None


def port_error(
    error: OSError, *, host: str, port: int, purpose: str, flag: str
) -> ConfigurationError:
    """What to tell a person whose address cannot be used."""
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"The {purpose} port {port} is already in use.",
            hint=f"Stop the program that uses it, or choose another port with {flag}.",
            reason="PortInUse",
        )
    return ConfigurationError(
        f"{purpose} cannot listen on {_address(host, port)}: {error.strerror}.",
        hint=f"Choose another address with --host or another port with {flag}.",
        reason="AddressUnavailable",
    )


def dial_address(host: str, port: int) -> str:
    """Where to reach a server that listens on ``host``, from the same machine."""
    return _address({"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), port)  # noqa: S104


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # The limit holds after decompression too: it is what stops a decompression bomb.
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        # Two servers on one port would share its connections silently.
        ("grpc.so_reuseport", 0),
        # Clients may ping every 10 s without a call and must not be sent away for it.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A peer that vanished without a word is noticed within about 80 s.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
