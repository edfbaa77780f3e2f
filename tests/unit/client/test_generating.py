"""Prompts and sampling settings of the SDK, and the option that starts the gateway."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek import ConfigurationError, EngineUnavailableError, ErrorCode, InferenceError
from deepseek._gateway import Gateway
from deepseek._generating import chunk_of, stream_request
from deepseek.cli.serve import ServeCommand
from deepseek_protos import inference_pb2 as pb


def test_a_text_and_settings_become_a_request() -> None:
    request = stream_request("llm", "Hi", {"max_tokens": 3, "stop": ["a"], "top_p": 0.5})
    assert request.raw_input_contents[0] == b"\x02\x00\x00\x00Hi"
    assert request.parameters["max_tokens"].int64_param == 3
    assert request.parameters["stop"].string_param == '["a"]'
    assert request.parameters["top_p"].double_param == 0.5


def test_token_numbers_are_sent_as_they_are() -> None:
    (tensor,) = stream_request("llm", [1, 2, 3], {}).inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input_ids", "INT64", [1, 3])


def test_a_setting_that_is_unknown_or_no_value_is_refused() -> None:
    for wrong in ({"tempreature": 1}, {"seed": object()}):
        with pytest.raises(ConfigurationError):
            stream_request("llm", "Hi", wrong)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("INVALID_ARGUMENT", InferenceError), ("UNAVAILABLE", EngineUnavailableError)],
)
def test_an_error_in_band_is_an_exception(code: str, kind: type[InferenceError]) -> None:
    item = pb.ModelStreamInferResponse(error_message="no")
    item.infer_response.parameters["error_code"].string_param = code
    with pytest.raises(kind, match="no") as caught:
        chunk_of(item)
    assert caught.value.code is ErrorCode[code]


def test_a_server_that_says_no_code_is_still_understood() -> None:
    with pytest.raises(InferenceError, match="broken"):
        chunk_of(pb.ModelStreamInferResponse(error_message="broken"))


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        ([], None),
        (["--openai"], 8000),
        (["--openai", "9000"], 9000),
        (["--openai", "--host", "::1"], 8000),
        (["--openai=9000"], 9000),
    ],
    ids=["off", "bare", "with a port", "before another option", "with ="],
)
def test_the_port_of_the_gateway_may_be_left_out(arguments: list[str], port: int | None) -> None:
    import typer.main
    from deepseek.cli._commands import app

    group: Any = typer.main.get_command(app)
    command = group.commands["serve"]
    assert isinstance(command, ServeCommand)
    assert command.make_context("serve", list(arguments)).params["openai"] == port


def test_the_gateway_is_pointed_at_the_worker_and_keeps_its_metrics_to_itself() -> None:
    gateway = Gateway(worker="127.0.0.1:8001", host="0.0.0.0", port=8000, log_level="info")
    joined = " ".join(gateway._arguments)
    assert "--worker-urls grpc://127.0.0.1:8001 --host 0.0.0.0 --port 8000" in joined
    assert "--prometheus-host 127.0.0.1" in joined
