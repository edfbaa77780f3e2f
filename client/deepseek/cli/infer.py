"""``deepseek infer``: call a model on a server and print the answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from deepseek_api.errors import ConfigurationError

from deepseek.cli._app import app
from deepseek.cli._console import OutputFormat, print_json

if TYPE_CHECKING:
    from deepseek import TLSConfig
    from deepseek._wire import Inputs, Parameter

More = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="VALUE")]


@app.command(epilog="Example: deepseek infer --model minilm --text 'a cat' 'a kitten'")
def infer(
    more: More = None,
    url: Annotated[str, typer.Option(help="Address of the server's gRPC port.")] = "127.0.0.1:8001",
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")] = "",
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="Texts to embed.", metavar="TEXT...")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", help="Pictures to classify.", metavar="FILE..."),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            help="A request as JSON of the v2 protocol: a file, the text itself, or - for stdin.",
            metavar="FILE",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Labels for each picture; default: the model's own.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 60.0,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Authorities that may sign the server.", metavar="FILE")
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """Send texts, pictures or tensors to a model and print its answer."""
    from deepseek import Client, TLSConfig

    texts, images = _spread(more or [], text, image, json_file)
    if not model:
        raise ConfigurationError("No model was named.", hint="Add --model NAME.")
    security: TLSConfig | bool = TLSConfig(ca_file=ca_file) if ca_file else tls
    inputs, parameters, outputs = _request(texts, images, json_file, top_k)
    with Client(url, timeout=timeout, tls=security) as client:
        # Also makes the connection, so that the time below is that of the inference alone.
        client.metadata(model)
        started = time.perf_counter()
        result = client.infer(model, inputs, parameters=parameters, outputs=outputs)
        latency_ms = (time.perf_counter() - started) * 1000
    from deepseek.cli import _answers

    if output is OutputFormat.JSON:
        print_json(_answers.as_json(result, latency_ms), compact=True)
    else:
        _answers.show_answer(result, latency_ms, texts=texts, images=images)


def _spread(
    more: list[str], text: list[str] | None, image: list[str] | None, json_file: str | None
) -> tuple[list[str], list[str]]:
    """Words without an option belong to the option that was given: ``--text a b``."""
    given = [
        name for name, value in (("text", text), ("image", image), ("json", json_file)) if value
    ]
    if len(given) != 1:
        raise ConfigurationError(
            "Exactly one kind of input is needed."
            if given
            else "There is nothing to send to the model.",
            hint="Give one of --text TEXT..., --image FILE... or --json FILE.",
        )
    if json_file and more:
        raise ConfigurationError(f"'{more[0]}' is one file too many.", hint="--json takes one.")
    return (text + more if text else []), (image + more if image else [])


def _request(
    texts: list[str], images: list[str], json_file: str | None, top_k: int | None
) -> tuple[Inputs, dict[str, Parameter], list[str]]:
    from deepseek import _calls
    from deepseek.cli._json_request import read_request

    if texts:
        return {_calls.TEXT_INPUT: texts}, {}, []
    if images:
        encoded = _calls.images_of([Path(image) for image in images])
        return {_calls.IMAGE_INPUT: encoded}, _calls.top_k_parameters(top_k), []
    return read_request(json_file or "-")
