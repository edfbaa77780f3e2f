"""What quantizing did to a model: bytes, errors and reasons, for programs and for people.

Why it exists: "75 % smaller" depends on what is counted. The report counts the linear layers and
the whole file apart, against what was stored before and against fp32, and it names every layer that
got something else than was wanted. Nothing here imports torch.

Errors are relative: the norm of the difference divided by the norm of the original.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

COLUMNS = ("LAYERS", "SCHEME", "COUNT", "BEFORE", "AFTER", "ERROR", "WORST")
"""Headings of `QuantizationReport.rows`."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One weight."""

    name: str
    type: str
    """``attention``, ``ffn``, ``conv``, ``embedding``, ``norm``, ``head`` or ``other``."""
    kind: str
    """``linear``, ``conv``, ``embedding`` or ``other``."""
    wanted: str
    """The scheme that the policy's rule names."""
    scheme: str
    """The scheme that the weight has; ``keep`` is its own type."""
    reason: str
    """Why it is not the wanted one; empty if it is."""
    parameters: int
    bytes_before: int
    bytes_after: int
    """Values, scales and zero points."""
    weight_error: float | None = None
    """Of the weight; None where nothing was rounded."""
    output_error: float | None = None
    """Of the layer's output on calibration inputs; None without calibration."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well the quantized model does what the original does."""

    metric: str
    value: float
    reference: float
    """Of the original model."""
    samples: int

    @property
    def kept(self) -> float:
        """The part of the original's metric that is kept."""
        return self.value / self.reference if self.reference else 0.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Time of one call, measured side by side."""

    median_ms: float
    reference_ms: float
    """Of the original model in the same process."""
    shape: str
    device: str

    @property
    def ratio(self) -> float:
        """How many times as fast as the original it is."""
        return self.reference_ms / self.median_ms


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """All weights of a model."""

    policy: str
    method: str
    """``nearest``, ``gptq``, ``awq``, and what was done before."""
    layers: tuple[LayerReport, ...]
    other_bytes_before: int
    """Biases, norms and everything else that is no layer's weight."""
    other_bytes_after: int
    other_parameters: int
    rest: str = "keep"
    """The scheme of what is no layer's weight."""
    accuracy: Accuracy | None = None
    speed: Speed | None = None

    @property
    def bytes_before(self) -> int:
        """Bytes of all tensors before."""
        return self.other_bytes_before + sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Bytes of all tensors now; a file has a header of some kilobytes besides."""
        return self.other_bytes_after + sum(layer.bytes_after for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return self.other_parameters + sum(layer.parameters for layer in self.layers)

    def share(self, *, kind: str = "", quantized_only: bool = False) -> float:
        """Bytes now divided by the bytes that the same numbers take in fp32.

        Args:
            kind: only layers of this kind; empty: the whole model.
            quantized_only: only layers that have scales.
        """
        chosen = [
            layer
            for layer in self.layers
            if (not kind or layer.kind == kind)
            and not (quantized_only and layer.weight_error is None)
        ]
        parameters = sum(layer.parameters for layer in chosen)
        found = sum(layer.bytes_after for layer in chosen)
        if not kind and not quantized_only:
            parameters, found = self.parameters, self.bytes_after
        return found / (4 * parameters) if parameters else 0.0

    def fallbacks(self) -> dict[str, list[str]]:
        """Names of layers that got another scheme than was wanted, by the reason."""
        found: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.reason:
                text = f"{layer.scheme} instead of {layer.wanted}: {layer.reason}"
                found.setdefault(text, []).append(layer.name)
        return found

    def worst(self, count: int = 3) -> list[LayerReport]:
        """The layers with the largest error of the output, or of the weight without outputs."""
        known = [layer for layer in self.layers if layer.weight_error is not None]
        return sorted(known, key=_error_of, reverse=True)[:count]

    def rows(self) -> list[tuple[Any, ...]]:
        """One row for each type and scheme, with the headings `COLUMNS`; bytes as numbers."""
        groups: dict[tuple[str, str], list[LayerReport]] = {}
        for layer in self.layers:
            groups.setdefault((layer.type, layer.scheme), []).append(layer)
        rows: list[tuple[Any, ...]] = [
            (
                *key,
                len(members),
                sum(layer.bytes_before for layer in members),
                sum(layer.bytes_after for layer in members),
                *_errors(members),
            )
            for key, members in groups.items()
        ]
        rows.append(("the rest", "", "", self.other_bytes_before, self.other_bytes_after, "", ""))
        rows.append(("all", "", "", self.bytes_before, self.bytes_after, "", ""))
        return rows

    def text(self) -> str:
        """The rows as text in columns, for a log or a notebook."""
        lines = [COLUMNS, *([str(cell) for cell in row] for row in self.rows())]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, with the totals."""
        return asdict(self) | {
            "layers": [asdict(layer) for layer in self.layers],
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "parameters": self.parameters,
            "share_of_fp32": self.share(),
            "linear_share_of_fp32": self.share(kind="linear"),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def measured(
        self, *, accuracy: Accuracy | None = None, speed: Speed | None = None
    ) -> QuantizationReport:
        """The same with the accuracy and speed of the whole model."""
        return replace(self, accuracy=accuracy or self.accuracy, speed=speed or self.speed)


def _error_of(layer: LayerReport) -> float:
    found = layer.output_error if layer.output_error is not None else layer.weight_error
    return found if found is not None else 0.0


def _errors(members: Sequence[LayerReport]) -> tuple[str, str]:
    """Mean and worst error of some layers, as text."""
    known = [_error_of(layer) for layer in members if layer.weight_error is not None]
    return (_percent([sum(known) / len(known)]), _percent([max(known)])) if known else ("", "")


def _percent(values: Iterable[float]) -> str:
    return ", ".join(f"{100 * value:.2f}%" for value in values)
