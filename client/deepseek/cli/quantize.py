"""``deepseek quantize``: a safetensors checkpoint into a smaller one, and what that did to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from deepseek_api.errors import ConfigurationError, DeviceError

from deepseek import _here
from deepseek.cli._app import app
from deepseek.cli._console import print_json, say, show, size, table

if TYPE_CHECKING:
    from deepseek_engine.prepare.quant.policy import Policy, Rule
    from deepseek_engine.prepare.quant.report import QuantizationReport


@app.command(epilog="Example: deepseek quantize ./llama --scheme int4-g128 --output ./llama-int4")
def quantize(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder with safetensors, or one .safetensors file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder to write.", metavar="DIR")
    ],
    scheme: Annotated[
        str,
        typer.Option(help="Scheme of linear layers, such as int4-g128, int8 or fp8; or mixed."),
    ] = "int8",
    embeddings: Annotated[
        str | None, typer.Option(help="Scheme of embeddings: int8, bf16 ...", metavar="SCHEME")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Scheme of the last layer.", metavar="SCHEME")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="Layers by name that get another scheme: '*.down_proj=int8', or '=keep'. "
            "May be repeated; the first that matches counts.",
            metavar="PATTERN=SCHEME",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Quantize a checkpoint in one pass, whatever its size, and report what it did.

    Weights are rounded to the nearest value, some rows at a time. The result has the format of
    compressed-tensors, which vLLM and transformers load too.
    """
    _require_torch()
    from deepseek_engine.prepare.messages import PrepareEvent
    from deepseek_engine.prepare.quant.stream import quantize_checkpoint

    from deepseek.cli._progress import preparing

    policy = _policy(scheme, embeddings, head, rule or [])
    if not checkpoint.exists():
        raise ConfigurationError(
            f"'{checkpoint}' does not exist.", hint="Name a folder or a .safetensors file."
        )
    with preparing(checkpoint.resolve().name) as on_event:

        def on_progress(tensor: str, done: int, total: int) -> None:
            on_event(
                PrepareEvent(kind="progress", stage="quantizing", done=done, total=total, unit="B")
            )

        report = quantize_checkpoint(checkpoint, output, policy, on_progress=on_progress)
    if as_json:
        print_json({"path": str(output)} | report.to_dict())
    else:
        _show(report, output)


def _require_torch() -> None:
    missing = _here.missing_modules(["torch"])
    if missing:
        raise DeviceError(
            "Quantizing needs torch, which is not installed.",
            hint="Install the extra 'prepare' or 'cuda'.",
            reason="BackendUnavailable",
        )


def _policy(scheme: str, embeddings: str | None, head: str | None, texts: Sequence[str]) -> Policy:
    from deepseek_engine.prepare.quant.kinds import LayerType
    from deepseek_engine.prepare.quant.policy import Rule, policy_named

    rules = [_rule(text) for text in texts]
    for chosen, kind in ((embeddings, LayerType.EMBEDDING), (head, LayerType.HEAD)):
        if chosen is not None:
            rules.append(Rule(chosen, types=frozenset({kind})))
    return policy_named(scheme).with_rules(*rules)


def _rule(text: str) -> Rule:
    from deepseek_engine.prepare.quant.policy import Rule

    names, equals, scheme = text.rpartition("=")
    if not (names and equals and scheme):
        raise ConfigurationError(
            f"'{text}' is no rule.", hint="Write PATTERN=SCHEME, for example '*.down_proj=int8'."
        )
    return Rule(scheme, names=names)


def _show(report: QuantizationReport, output: Path) -> None:
    from deepseek_engine.prepare.quant.report import COLUMNS

    rows = []
    for *names, count, before, after, error, worst in report.rows():
        rows.append((*names, str(count), size(before), size(after), error, worst))
    show(table(COLUMNS, rows, right=COLUMNS[2:], fixed=COLUMNS[:2]))
    say()
    say(
        f"{size(report.bytes_before)} became {size(report.bytes_after)}: "
        f"{report.share():.1%} of fp32; linear layers {report.share(kind='linear'):.1%}."
    )
    say("Errors are those of the weights, relative; accuracy is measured on data, not here.")
    for reason, names in report.fallbacks().items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        say(f"{shown}: {reason}.")
    say(f"Written to {output}")
