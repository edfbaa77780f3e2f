"""Addresses, TLS files and retries of a connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deepseek._channel import TLSConfig, options, target_of, tls_of
from deepseek_api.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        ("grpc://host:1/", "host:1"),
        ("grpcs://host:443", "host:443"),
        ("[::1]:8001", "[::1]:8001"),
        ("unix:/run/s.sock", "unix:/run/s.sock"),
    ],
)
def test_an_address_becomes_a_target(url: str, target: str) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize("url", ["", "host", "host:", ":8001", "http://host:8001", "host:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the address of a gRPC server"):
        target_of(url)


def test_only_what_a_server_answers_at_its_end_is_retried() -> None:
    config = json.loads(str(dict(options(None))["grpc.service_config"]))
    retried = config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"]
    assert retried == ["UNAVAILABLE", "CANCELLED"]


@pytest.mark.parametrize(
    ("url", "tls", "encrypted"),
    [("h:1", False, False), ("h:1", True, True), ("grpcs://h:1", False, True)],
)
def test_encryption_is_asked_for_by_flag_or_scheme(url: str, tls: bool, encrypted: bool) -> None:
    assert (tls_of(url, tls) is not None) is encrypted


def test_a_missing_tls_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'nowhere\.pem' cannot be read"):
        TLSConfig(ca_file="nowhere.pem").credentials()


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs its private key"):
        TLSConfig(certificate_file=tmp_path / "c.pem").credentials()
