"""What a leader and its ranks tell each other comes through whole, or is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import torch
from deepseek_engine.generation.parallel.control import Command, ControlSocket, Heartbeat
from deepseek_engine.generation.parallel.shard import pack, unpack
from hypothesis import given
from hypothesis import strategies as st

CPU = torch.device("cpu")
Ends = tuple[ControlSocket, ControlSocket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = map(ControlSocket, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_command_larger_than_the_socket_arrives_whole(ends: Ends) -> None:
    ours, theirs = ends
    tensors = {
        "tokens": torch.arange(300_000),
        "none": torch.empty(0, 3, dtype=torch.int32),
        "flag": torch.tensor([True, False, True]),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }
    sender = threading.Thread(target=lambda: ours.send(*pack("step", {"n": 3}, tensors)))
    sender.start()
    received = theirs.receive()
    sender.join()
    assert received is not None
    command, data = received
    assert isinstance(command, Command)
    assert (command.name, command.fields) == ("step", {"n": 3})
    found = unpack(command, data, CPU)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_an_end_that_closes_wakes_the_other(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(Heartbeat())
    ours.close()
    assert theirs.receive() == (Heartbeat(), bytearray())
    assert theirs.receive() is None
    with pytest.raises(OSError, match="pipe"):
        theirs.send(Heartbeat())


def test_a_header_that_is_no_message_is_refused(ends: Ends) -> None:
    first, second = socket.socketpair()
    with first, second:
        first.sendall(b"\x03\x00\x00\x00\x00\x00\x00\x00\x93\x01\x02")
        with pytest.raises(ValueError, match="Expected"):
            ControlSocket(second).receive()


@given(cut=st.integers(1, 40))
def test_a_command_with_other_bytes_than_its_tensors_is_refused(cut: int) -> None:
    command, data = pack("step", {}, {"a": torch.arange(3), "b": torch.arange(2)})
    whole = bytearray(b"".join(data))
    for changed in (whole[:-cut], whole + bytes(cut)):
        with pytest.raises(ValueError, match=r"cut off|belong to no tensor"):
            unpack(command, changed, CPU)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype 'load'"):
        unpack(Command("step", {}, (("a", "load", (1,)),)), bytearray(8), CPU)
