"""Retries and encryption of the SDK, against small servers with real sockets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from deepseek import Client, TLSConfig
from deepseek_api.errors import EngineUnavailableError, ErrorCode, InferenceError
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from tests.support.relay import Relay


class Moody(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Fails the first calls with the given statuses, then answers."""

    def __init__(self, *failures: grpc.StatusCode) -> None:
        self.failures = list(failures)
        self.calls = 0

    def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> Any:
        self.calls += 1
        if self.failures:
            context.abort(self.failures.pop(0), "Not now.")
        return pb.ModelInferResponse(model_name=request.model_name)

    def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)


@contextmanager
def serving(service: Moody, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED], ids=lambda s: s.name
)
def test_what_another_server_may_answer_is_tried_again(status: grpc.StatusCode) -> None:
    service = Moody(status, status)
    with serving(service) as url, Client(url) as client:
        assert client.infer("m", {}).model == "m"
    assert service.calls == 3


def test_a_connection_that_is_lost_once_fails_no_request() -> None:
    """The address of a Service leads for a moment to a pod that has just ended."""
    with serving(Moody()) as server, Relay(server, resets=1) as way, Client(way.url) as client:
        assert client.infer("m", {}).model == "m"
    assert way.connections == 1


def test_every_client_has_a_connection_of_its_own() -> None:
    """A Service chooses a pod for each connection: a shared one would reach only one pod."""
    with serving(Moody()) as server, Relay(server) as way:
        with Client(way.url) as first, Client(way.url) as second:
            assert first.ready()
            assert second.ready()
        assert way.connections == 2


def test_unavailable_is_not_tried_for_ever() -> None:
    service = Moody(*[grpc.StatusCode.UNAVAILABLE] * 9)
    refused = pytest.raises(EngineUnavailableError, match="Not now")
    with serving(service) as url, Client(url) as client, refused:
        client.infer("m", {})
    assert service.calls == 5


@pytest.mark.parametrize(
    "status",
    [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND],
    ids=lambda status: status.name,
)
def test_other_failures_are_not_tried_again(status: grpc.StatusCode) -> None:
    service = Moody(status)
    refused = pytest.raises(InferenceError)
    with serving(service) as url, Client(url) as client, refused as caught:
        client.infer("m", {})
    assert service.calls == 1
    assert caught.value.code is ErrorCode[status.name]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for ``model.test`` that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ["-subj", "/CN=model.test", "-addext", "subjectAltName=DNS:model.test"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subprocess.run([*make, *names, *files], check=True, capture_output=True)
    return certificate, key


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes its certificate with the openssl program"
)


@needs_openssl
def test_a_server_is_reached_over_tls_when_its_authority_is_known(
    certificate: tuple[Path, Path],
) -> None:
    chain, key = certificate
    pair = [(key.read_bytes(), chain.read_bytes())]
    tls = TLSConfig(ca_file=chain, server_name="model.test")
    with serving(Moody(), grpc.ssl_server_credentials(pair)) as url:
        with Client(url, tls=tls) as client:
            assert client.infer("m", {}).model == "m"
        with Client(url, tls=True) as stranger:
            assert not stranger.ready(timeout=2)


@needs_openssl
def test_a_client_certificate_is_shown_to_a_server_that_asks(
    certificate: tuple[Path, Path],
) -> None:
    chain, key = certificate
    pair = [(key.read_bytes(), chain.read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, chain.read_bytes(), require_client_auth=True)
    known = TLSConfig(ca_file=chain, certificate_file=chain, key_file=key, server_name="model.test")
    with serving(Moody(), credentials) as url:
        with Client(url, tls=known) as client:
            assert client.ready(timeout=5)
        with Client(url, tls=TLSConfig(ca_file=chain, server_name="model.test")) as unknown:
            assert not unknown.ready(timeout=2)
