"""The whole way from a request to a bundle, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from deepseek_api.manifest import Agreement, BundleSource, Manifest, Selection, Speed, Variant
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision

from deepseek_engine.hardware import Cpu, detect_cpu
from deepseek_engine.prepare.architectures import LoadedModel, load_planned, make_plan
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.export import export_graph
from deepseek_engine.prepare.generators import build_generator
from deepseek_engine.prepare.judge import Judge, Ranking, make_judge, verify_export
from deepseek_engine.prepare.measure import Timing, answers, open_session, time_interleaved
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.schemes import TARGETS, Scheme, Target, wanted_schemes
from deepseek_engine.prepare.sources import Source, open_source
from deepseek_engine.prepare.terms import notice_of, tell_terms
from deepseek_engine.prepare.torch_variants import add_gpu, memory_of, wanted_types, write_types
from deepseek_engine.prepare.writer import BundleWriter, WrittenGraph, tool_versions

FP32 = "fp32"
TORCH = "fp32-torch"


@dataclass(frozen=True, slots=True)
class Draft:
    """A variant whose files are written and which nobody has judged yet."""

    id: str
    precision: Precision
    target: Target | None
    """``None`` for fp32, which every processor runs."""
    scheme: Scheme | None
    written: WrittenGraph


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured of a draft; empty where this processor cannot tell."""

    agreement: Agreement | None = None
    timing: Timing | None = None


def build_bundle(request: PrepareRequest, folder: Path, report: Reporter) -> str:
    """Prepare the model of a request in an empty folder; return the bundle's digest.

    Raises:
        DeepseekError: source, precision, architecture or conversion do not work.
    """
    cpu = detect_cpu()
    threads = request.threads or cpu.threads
    tell_terms(request, report)
    report.progress("reading weights")
    source = open_source(request, report)
    plan = make_plan(request, source)
    if plan.family == "generator":
        return build_generator(request, source, plan, folder, report)
    model = load_planned(plan, source)
    on_gpu = request.device == "cuda"
    schemes = [] if on_gpu else list(wanted_schemes(model.family, request.precisions))
    types = list(wanted_types(request.precisions)) if on_gpu else []
    report.progress("exporting to ONNX")
    graph = export_graph(model)
    writer = BundleWriter(folder)
    drafts = _write_drafts(writer, model, graph, schemes, threads=threads, report=report)
    judge = make_judge(model)
    verdicts = _judge(folder, model, judge, drafts, cpu=cpu, threads=threads, report=report)
    variants = [_describe(writer, draft, verdicts, judge, cpu, threads) for draft in drafts]
    variants.append(_describe_torch(writer, model))
    selection = select(drafts, {variant.id: variant for variant in variants}, cpu)
    if on_gpu:
        made = write_types(writer, model, judge, types, report)
        variants += made
        add_gpu(selection, fp32=TORCH, others=made)
    report.progress("writing the manifest")
    notice = notice_of(plan.entry)
    return writer.write_manifest(
        _manifest(request, source, model, writer, variants, selection, notice)
    )


def _write_drafts(
    writer: BundleWriter,
    model: LoadedModel,
    graph: onnx.ModelProto,
    schemes: Sequence[Scheme],
    *,
    threads: int,
    report: Reporter,
) -> list[Draft]:
    """Write fp32 and every scheme for every target."""
    drafts = [Draft(FP32, Precision.FP32, None, None, writer.write_graph(FP32, graph))]
    jobs = [(scheme, target) for scheme in schemes for target in TARGETS]
    for scheme, target in report.track("quantizing", jobs, len(jobs), "variants"):
        name = f"{scheme.name}-{target.suffix}"
        quantized = scheme.quantize(graph, model, target, threads)
        written = writer.write_graph(name, quantized)
        drafts.append(Draft(name, scheme.precision, target, scheme, written))
    return drafts


def _judge(
    folder: Path,
    model: LoadedModel,
    judge: Judge,
    drafts: Sequence[Draft],
    *,
    cpu: Cpu,
    threads: int,
    report: Reporter,
) -> dict[str, Verdict]:
    """Check the export, then measure the drafts that were made for this processor."""
    runnable = [draft for draft in drafts if _suits(draft, cpu)]
    sessions: dict[str, ort.InferenceSession] = {}
    agreements: dict[str, Agreement] = {}
    reference = np.empty(0)
    for draft in report.track("comparing with fp32", runnable, len(runnable), "variants"):
        session = open_session(str(folder / draft.written.path), threads=threads)
        sessions[draft.id] = session
        if draft.id == FP32:
            verify_export(model, session, judge)
            reference = np.concatenate(answers(session, judge.feeds))
        else:
            given = np.concatenate(answers(session, judge.feeds))
            agreements[draft.id] = judge.compare(reference, given)
    report.progress("measuring speed")
    feed = dict(judge.speed_feed)
    calls = {name: partial(session.run, None, feed) for name, session in sessions.items()}
    timings = time_interleaved(calls)
    return {name: Verdict(agreements.get(name), timings[name]) for name in sessions}


def _suits(draft: Draft, cpu: Cpu) -> bool:
    """Whether a draft computes what it will compute when served on the processors it is for.

    Full-range weights saturate on a processor without VNNI, so judging them there would judge the
    processor.
    """
    return draft.target is None or bool(set(draft.target.members) & _without_any(cpu))


def _without_any(cpu: Cpu) -> set[InstructionSet]:
    return set(cpu.instruction_sets) - {InstructionSet.ANY}


def _describe(
    writer: BundleWriter,
    draft: Draft,
    verdicts: dict[str, Verdict],
    judge: Judge,
    cpu: Cpu,
    threads: int,
) -> Variant:
    verdict = verdicts.get(draft.id, Verdict())
    notes = [draft.scheme.note] if draft.scheme else ["The reference that others are judged by."]
    speed = None
    if verdict.timing is not None:
        fp32 = verdicts[FP32].timing
        assert fp32 is not None  # fp32 runs on every processor
        speed = Speed(
            median_ms=round(verdict.timing.median_ms, 3),
            p90_ms=round(verdict.timing.p90_ms, 3),
            shape=judge.speed_shape,
            device=cpu.name,
            threads=threads,
            instruction_set=cpu.instruction_sets[0],
            runtime=f"onnxruntime {ort.__version__}",
            ratio_to_fp32=round(fp32.median_ms / verdict.timing.median_ms, 3),
        )
    else:
        notes.append("Not measured: the processor that prepared it multiplies int8 differently.")
    return Variant(
        id=draft.id,
        backend=BackendName.ONNXRUNTIME,
        precision=draft.precision,
        instruction_set=draft.target.made_for if draft.target else InstructionSet.ANY,
        files=tuple(writer.describe(path) for path in draft.written.files),
        graph=draft.written.path,
        tensor_bytes=draft.written.tensor_bytes,
        memory_bytes=memory_of(draft.written.tensor_bytes),
        agreement=verdict.agreement,
        speed=speed,
        notes=tuple(notes),
    )


def _describe_torch(writer: BundleWriter, model: LoadedModel) -> Variant:
    written = writer.write_torch(TORCH, model)
    return Variant(
        id=TORCH,
        backend=BackendName.TORCH,
        precision=Precision.FP32,
        files=tuple(writer.describe(path) for path in written.files),
        graph=written.path,
        tensor_bytes=written.tensor_bytes,
        memory_bytes=memory_of(written.tensor_bytes),
        notes=("For the torch back end; no CPU selects it by itself.",),
    )


def _manifest(
    request: PrepareRequest,
    source: Source,
    model: LoadedModel,
    writer: BundleWriter,
    variants: Sequence[Variant],
    selection: Selection,
    notice: Mapping[str, bytes],
) -> Manifest:
    return Manifest(
        name=request.name,
        model_type=model.model_type,
        task=model.task,
        architecture=model.architecture,
        signature=model.signature,
        preprocessing=model.preprocessing,
        postprocessing=model.postprocessing,
        files=writer.write_shared({**model.shared_files, **notice}),
        variants=tuple(variants),
        selection=selection,
        source=BundleSource(
            uri=source.uri,
            revision=source.revision or None,
            digest=source.digest or None,
        ),
        random_weights=model.random_weights,
        created_by=tool_versions(),
    )


def select(drafts: Sequence[Draft], variants: dict[str, Variant], cpu: Cpu) -> Selection:
    """Which variant serves a requested precision on an instruction set.

    ``auto`` is decided by measurement on this processor; the other target gets the same scheme.
    """
    selection: Selection = {Precision.FP32: {InstructionSet.ANY: FP32}}
    quantized = [draft for draft in drafts if draft.target is not None]
    for draft in quantized:
        assert draft.scheme is not None
        assert draft.target is not None
        if draft.scheme.name == draft.precision:  # not the guarded twin, which only auto picks
            members = dict.fromkeys(draft.target.members, draft.id)
            selection.setdefault(draft.precision, {}).update(members)
    here = [variants[draft.id] for draft in quantized if _suits(draft, cpu)]
    best = Ranking(variants[FP32], here).best().id
    chosen = next((draft.scheme for draft in quantized if draft.id == best), None)
    selection[Precision.AUTO] = {InstructionSet.ANY: FP32}
    for draft in quantized:
        if draft.scheme is chosen and draft.target is not None:
            selection[Precision.AUTO].update(dict.fromkeys(draft.target.members, draft.id))
    return selection
