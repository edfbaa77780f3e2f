"""What is missing on a machine is said once, completely, with what to do."""

from __future__ import annotations

import socket

import pytest

from deploy.cluster.prerequisites import complaint, go_version, ports_in_use


def test_nothing_is_said_where_nothing_is_missing() -> None:
    assert complaint({}, root=True, go=(1, 26)) is None


def test_everything_that_is_missing_is_in_one_error_with_one_command() -> None:
    missing = {"runc": "runc", "the CNI plugins bridge": "containernetworking-plugins"}
    error = complaint(missing, root=False, go=None)
    assert error is not None
    for part in ("runc", "the CNI plugins bridge", "Go 1.26 or newer", "the rights of root"):
        assert part in error.message
    assert "apt-get install --no-install-recommends containernetworking-plugins runc" in str(error)


@pytest.mark.parametrize("go", [(1, 19), (1, 25)])
def test_a_compiler_that_is_too_old_is_named_with_its_version(go: tuple[int, int]) -> None:
    error = complaint({}, root=True, go=go)
    assert error is not None
    assert f"found {go[0]}.{go[1]}" in error.message


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.27rc1 linux/arm64", (1, 27)),
        ("go version devel go1.28-abcdef linux/amd64", (1, 28)),
        ("bash: go: command not found", None),
        ("", None),
    ],
)
def test_the_version_of_go_is_read_from_what_it_prints(
    text: str, version: tuple[int, int] | None
) -> None:
    assert go_version(text) == version


def test_a_port_that_somebody_listens_on_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert ports_in_use({"etcd": taken}) == [f"etcd: {taken}"]
    assert ports_in_use({"etcd": taken}) == []
