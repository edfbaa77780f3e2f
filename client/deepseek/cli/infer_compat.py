"""``deepseek-infer``: one model in this process, with the flags that users know.

Why it exists: existing scripts call a program of this name with flags that have underscores. It
loads a model without a server; with inputs it prints the answers, without any it measures how many
samples a second the model computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from deepseek_api.errors import ConfigurationError

from deepseek.cli import run
from deepseek.cli._app import Command
from deepseek.cli._console import OutputFormat, note, print_json
from deepseek.cli._weights import Weights

if TYPE_CHECKING:
    from deepseek import InferenceEngine

DEFAULT_MAXIMUM = 32
RANDOM_NOTE = "The weights of this model are random: its answers mean nothing."
More = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="VALUE")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    cls=Command, epilog="Example: deepseek-infer --model minilm --precision int8 --batch_size 16"
)
def infer(
    more: More = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Catalog name, source URI or path.")
    ] = "",
    precision: Annotated[str, typer.Option(help="auto, fp32, int8, mixed, ...")] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch_size", "--batch-size", help="Samples at a time.", min=1)
    ] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    max_batch_size: Annotated[
        str,
        typer.Option(
            "--max_batch_size",
            "--max-batch-size",
            help="Most samples computed together: a number, or a share of memory such as 70%.",
        ),
    ] = str(DEFAULT_MAXIMUM),
    enable_tensor_core: Annotated[
        bool,
        typer.Option(
            "--enable_tensor_core", "--enable-tensor-core", help="Use a GPU's tensor cores."
        ),
    ] = False,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="Texts to embed.", metavar="TEXT...")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="Pictures, texts by line, or volumes (.npy).", metavar="FILE..."
        ),
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="Random weights need no download; their answers mean nothing.")
    ] = Weights.REAL,
    seed: Annotated[int, typer.Option(help="Seed of random weights.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="Length of the measurement.", min=0.1)] = 3.0,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of failures.")] = False,
) -> None:
    """Run a model in this process: print answers, or measure its throughput without inputs."""
    from deepseek.cli import _batch_limit, _measure

    if not model:
        raise ConfigurationError("No model was named.", hint="Add --model NAME.")
    limit = _batch_limit.parse_limit(max_batch_size)
    texts, files = _spread(more or [], text, file)
    random = seed if weights is Weights.RANDOM else None
    with _open(model, precision, device, limit, random) as engine:
        if enable_tensor_core and device == "cpu":
            note("--enable_tensor_core has no effect on 'cpu': tensor cores are parts of GPUs.")
        most = _batch_limit.rows_for(limit, engine)
        if batch_size > most:
            note(f"--batch_size {batch_size} is above the limit of {most}; {most} is used.")
        rows = min(batch_size, most)
        if texts or files:
            _answer(engine, texts, files, rows, as_json=output is OutputFormat.JSON)
            return
        made_up = engine.info.random_weights
        measured = _measure.measure(engine, batch_size=rows, seconds=seconds)
    if output is OutputFormat.JSON:
        print_json(
            {"model": model, "device": device, "randomWeights": made_up, **measured.to_json()}
        )
    else:
        if made_up:
            note(RANDOM_NOTE)
        _measure.show_measurement(measured, model=model, device=device)


def _open(
    model: str, precision: str, device: str, limit: int | float, random: int | None
) -> InferenceEngine:
    """The engine; weights that are not prepared yet are, with progress; random ones by seed."""
    from deepseek import InferenceEngine
    from deepseek.cli import _batch_limit
    from deepseek.cli._progress import preparing

    with preparing(model) as on_event:
        return InferenceEngine(
            model,
            device=device,
            precision=precision,
            max_batch_size=limit if isinstance(limit, int) else _batch_limit.MOST_ROWS,
            random_weights=random is not None,
            seed=random or 0,
            on_event=on_event,
        )


def _spread(
    more: list[str], text: list[str] | None, file: list[str] | None
) -> tuple[list[str], list[str]]:
    if text and file:
        raise ConfigurationError("Both --text and --input were given.", hint="Give one of them.")
    if more and not text and not file:
        raise ConfigurationError(
            f"'{more[0]}' belongs to no option.", hint="Write --input before files."
        )
    return (text + more if text else []), (file + more if file else [])


def _answer(
    engine: InferenceEngine, texts: list[str], files: list[str], rows: int, *, as_json: bool
) -> None:
    from deepseek.cli import _samples

    names, samples = _samples.read_samples(engine.info, texts, files)
    answers = engine.batch_infer(samples, batch_size=rows)
    if engine.info.random_weights:
        note(RANDOM_NOTE)
    if as_json:
        print_json(_samples.answers_as_json(names, answers), compact=True)
    else:
        _samples.show_answers(engine.info, names, answers)


def main() -> None:
    """Run the program."""
    run(lambda: app(prog_name="deepseek-infer"))
