"""``deepseek generate``: let a model on a server continue a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepseek.cli._app import app
from deepseek.cli._console import OutputFormat, note, print_json

if TYPE_CHECKING:
    from deepseek import Chunk


@app.command(epilog="Example: deepseek generate gemma3-270m 'The capital of France is'")
def generate(
    model: Annotated[str, typer.Argument(help="Name of a model that generates.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from stdin.")],
    url: Annotated[str, typer.Option(help="Address of the server's gRPC port.")] = "127.0.0.1:8001",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among so many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose within this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the answer repeatable.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends the answer. May be repeated.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="The answer is JSON of this schema.", metavar="FILE")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter to use.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the answer may take.")] = 600.0,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Authorities that may sign the server.", metavar="FILE")
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="table streams the text.")
    ] = OutputFormat.TABLE,
) -> None:
    """Generate text and print it as it comes."""
    from deepseek import Client, TLSConfig
    from deepseek._files import read_file

    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "adapter": adapter,
    }
    if json_schema is not None:
        given["json_schema"] = read_file(json_schema, what="schema").decode()
    sampling: Any = {name: value for name, value in given.items() if value is not None}
    text = sys.stdin.read() if prompt == "-" else prompt
    security = TLSConfig(ca_file=ca_file) if ca_file else tls
    shown = output is OutputFormat.TABLE
    chunks: list[Chunk] = []
    with Client(url, tls=security) as client:
        for chunk in client.generate(model, text, timeout=timeout, **sampling):
            chunks.append(chunk)
            if shown:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
    last = chunks[-1]
    if shown:
        sys.stdout.write("\n")
        sys.stdout.flush()
        note(_summary(last))
        return
    answer = {
        "text": "".join(chunk.text for chunk in chunks),
        "token_ids": [token for chunk in chunks for token in chunk.token_ids],
        "finish_reason": last.finish_reason,
    }
    print_json(answer | last.parameters, compact=True)


def _summary(last: Chunk) -> str:
    facts = last.parameters
    tokens, total_ms = int(facts["completion_tokens"]), float(facts["total_ms"])
    first_ms = float(facts["first_token_ms"])
    rate = (tokens - 1) / max(1e-9, (total_ms - first_ms) / 1000)
    speed = f", {rate:.0f} tokens/s after it" if tokens > 1 else ""
    return f"{tokens} tokens ({last.finish_reason}); the first after {first_ms:.0f} ms{speed}."
