"""``deepseek doctor``: what this machine can run, why not the rest, and what suits which load."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from deepseek_api.errors import ConfigurationError
from deepseek_api.vocabulary import InstructionSet

from deepseek import _here
from deepseek.cli import _hardware_guide as guide
from deepseek.cli._app import app
from deepseek.cli._cluster_checks import check_cluster
from deepseek.cli._cluster_options import ContextOption, NamespaceOption
from deepseek.cli._console import (
    OutputFormat,
    bad,
    good,
    note,
    print_json,
    say,
    show,
    size,
    table,
    warn,
)
from deepseek.cli._errors import FAILED
from deepseek.cli._findings import Finding, Level, findings_table

PORTS = {8001: "gRPC", 8080: "HTTP"}


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether a device and a precision can serve here."""

    device: str
    precision: str
    runs: bool
    detail: str


@app.command()
def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Check a Kubernetes cluster instead of this machine.")
    ] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print.")
    ] = OutputFormat.TABLE,
) -> None:
    """Check this machine, or a cluster: what it can run, and why not the rest.

    Exits with 1 when something that serving needs is missing.
    """
    if cluster:
        check_cluster(context=context, namespace=namespace, output=output)
        return
    if namespace or context:
        raise ConfigurationError("--namespace and --context belong to --cluster.")
    from deepseek_engine.hardware import detect_cpu, detect_memory

    cpu, memory, gpus = detect_cpu(), detect_memory(), _here.nvidia_gpus()
    findings = [
        _python(),
        *_packages(),
        Finding("processor", "ok", f"{cpu.name}, {cpu.threads} usable threads"),
        Finding("instruction set", "ok", _instructions(cpu.instruction_sets)),
        _memory(memory.total, memory.usable),
        _gpu(gpus),
        *(_port(port, use) for port, use in PORTS.items()),
        _cache(),
    ]
    abilities = _abilities(gpus)
    loads = [
        {
            "load": load.name,
            "suits": load.hardware,
            "why": load.why,
            "here": guide.here(
                load, sets=cpu.instruction_sets, memory=memory.total, gpus=len(gpus)
            ),
        }
        for load in guide.LOADS
    ]
    if output is OutputFormat.JSON:
        print_json(
            {
                "checks": [asdict(finding) for finding in findings],
                "abilities": [asdict(ability) for ability in abilities],
                "loads": loads,
            }
        )
    else:
        _print(findings, abilities, loads)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(FAILED)


def _print(findings: list[Finding], abilities: list[Ability], loads: list[dict[str, str]]) -> None:
    show(findings_table(findings))
    say()
    rows = [
        (a.device, a.precision, good("yes") if a.runs else bad("no"), a.detail) for a in abilities
    ]
    show(
        table(
            ("DEVICE", "PRECISION", "RUNS HERE", ""),
            rows,
            fixed=["DEVICE", "PRECISION", "RUNS HERE"],
        )
    )
    say()
    colours = {"well": good, "yes": good}
    shown = [
        (row["load"], row["suits"], row["why"], colours.get(row["here"], warn)(row["here"]))
        for row in loads
    ]
    show(table(("LOAD", "SUITABLE HARDWARE", "BECAUSE", "HERE"), shown, fixed=["HERE"]))
    problems = [finding for finding in findings if finding.level == "problem"]
    if problems:
        note(f"Not ready to serve: {', '.join(finding.what for finding in problems)}.", style="red")


def _python() -> Finding:
    version = platform.python_version()
    known = platform.python_version_tuple()[:2] in (("3", "11"), ("3", "12"))
    return Finding("Python", "ok" if known else "note", version + ("" if known else ", not tested"))


def _packages() -> list[Finding]:
    wanted: tuple[tuple[str, tuple[str, ...], str, Level], ...] = (
        ("serving packages", _here.SERVING_PACKAGES, "cpu", "problem"),
        ("preparing packages", _here.PREPARING_PACKAGES, "prepare", "note"),
    )
    findings = []
    for what, modules, extra, level in wanted:
        missing = _here.missing_modules(modules)
        if missing:
            detail = f"missing: {', '.join(missing)}. Install them: pip install 'deepseek[{extra}]'"
            findings.append(Finding(what, level, detail))
        else:
            findings.append(Finding(what, "ok", f"all {len(modules)} installed"))
    return findings


def _instructions(sets: tuple[InstructionSet, ...]) -> str:
    best = sets[0]
    fast = bool(guide.INT8_DOT & set(sets))
    return f"{best}, " + ("with 8-bit dot products" if fast else "without 8-bit dot products")


def _memory(total: int, usable: int) -> Finding:
    detail = f"{size(total)}, {size(usable)} usable now"
    return Finding("memory", "ok" if usable >= 1 << 30 else "note", detail)


def _gpu(gpus: list[str]) -> Finding:
    return Finding("GPU", "ok" if gpus else "note", ", ".join(gpus) or "none found; cpu is used")


def _port(port: int, use: str) -> Finding:
    if _here.port_is_free(port):
        return Finding(f"port {port}", "ok", f"free, for {use}")
    option = "--grpc-port" if use == "gRPC" else "--http-port"
    return Finding(f"port {port}", "note", f"in use; serve with {option} and another number")


def _cache() -> Finding:
    from deepseek_engine.prepare.api import cache_folder

    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    detail = f"{_short(folder)}: {size(_here.folder_bytes(folder))} used, {size(free)} free"
    return Finding("bundle cache", "ok" if free > 2 << 30 else "note", detail)


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _abilities(gpus: list[str]) -> list[Ability]:
    serving = _here.missing_modules(_here.SERVING_PACKAGES)
    why = "packages for serving are missing" if serving else ""
    notes = {
        "fp32": "the reference",
        "int8": "weights and activations in 8 bits",
        "mixed": "encoders only: feed-forward layers in 8 bits, the rest in fp32",
    }
    rows = [Ability("cpu", name, not serving, why or text) for name, text in notes.items()]
    rows.append(
        Ability("cpu", "fp16 bf16 int4 fp8", False, "no variants for the processor in this release")
    )
    for kind in ("cuda", "rocm", "npu"):
        reason = _here.why_no_device(_here.DeviceName(kind), gpus=gpus)
        rows.append(Ability(kind, "any", reason is None, reason or ""))
    return rows
