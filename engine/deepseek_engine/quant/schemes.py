"""Every way to store a weight, by name, and what each is called in a checkpoint.

Why it exists: policies, layers, checkpoints and reports must mean the same thing by ``int4-g128``.
The checkpoint format is that of the package compressed-tensors (its 0.12 to 0.20 were compared):
``config.json`` holds ``quantization_config.config_groups``, and each group describes weights and
activations by bits, type, symmetry and strategy. Nothing here needs torch.

Rounding rules are not here: they are in `deepseek_engine.prepare.quant.rounding`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_api.errors import PrecisionError

Activations = Literal["none", "int8", "fp8"]
"""What a layer rounds its inputs to while it runs; ``none`` leaves them as they are."""


class Granularity(enum.StrEnum):
    """What shares one scale."""

    NONE = "none"
    """Nothing: the weight is a plain floating point tensor."""
    ROW = "row"
    """An output feature: a row of ``[N, K]``, a filter of a convolution, a row of a table."""
    GROUP = "group"
    """Neighbours along K within a row."""
    BLOCK = "block"
    """A rectangle of rows and columns."""


class WeightFormat(enum.StrEnum):
    """How compressed-tensors stores the weight of a group."""

    DENSE = "dense"
    PACKED = "pack-quantized"
    """``weight_packed``: several integers in an int32 word."""
    INT = "int-quantized"
    """``weight`` in int8, inputs rounded to int8."""
    FLOAT = "float-quantized"
    """``weight`` in fp8, inputs rounded to fp8."""
    NAIVE = "naive-quantized"
    """``weight`` in its own data type, inputs left alone."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store a weight ``[N, K]``: w[n, k] = (q[n, k] - zero point) * scale."""

    name: str
    kind: Literal["int", "float", "dense"]
    """Type of the stored numbers; ``dense`` is an ordinary floating point tensor."""
    bits: int
    granularity: Granularity = Granularity.NONE
    symmetric: bool = True
    """False: each group also has a zero point."""
    group_size: int = 0
    """Neighbours along K that share a scale; 0 without groups."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale."""
    activations: Activations = "none"
    activation_group: int = 0
    """Neighbours along K of an input that share its scale; 0: the whole token."""
    linear_only: bool = False
    """Whether convolutions and embeddings cannot be stored this way."""

    @property
    def quantized(self) -> bool:
        """Whether the weight has scales."""
        return self.kind != "dense"

    @property
    def format(self) -> WeightFormat:
        """How a checkpoint stores the weight; the choice of compressed-tensors itself."""
        if not self.quantized:
            return WeightFormat.DENSE
        if self.kind == "int":
            if self.block is not None:
                return WeightFormat.NAIVE
            return WeightFormat.PACKED if self.activations == "none" else WeightFormat.INT
        return WeightFormat.NAIVE if self.activations == "none" else WeightFormat.FLOAT

    def stored_bits(self, rows: int, columns: int) -> int:
        """Bits of a weight ``[rows, columns]`` in a checkpoint, with scales and zero points.

        Row and block scales have 32 bits, group scales 16, zero points 4.
        """
        values = rows * columns * self.bits
        match self.granularity:
            case Granularity.ROW:
                return values + 32 * rows
            case Granularity.GROUP:
                each = 16 if self.symmetric else 20
                return values + each * rows * (columns // self.group_size)
            case Granularity.BLOCK:
                assert self.block is not None  # what the granularity means
                return values + 32 * -(-rows // self.block[0]) * -(-columns // self.block[1])
            case Granularity.NONE:
                return values

    def to_config(self, targets: list[str]) -> dict[str, Any]:
        """The entry of ``config_groups`` for layers of these names (or ``re:`` patterns)."""
        inputs = None
        if self.activations != "none":
            inputs = _arguments(
                "int" if self.activations == "int8" else "float",
                8,
                dynamic=True,
                strategy="group" if self.activation_group else "token",
                group_size=self.activation_group or None,
            )
        return {
            "targets": targets,
            "weights": _arguments(
                self.kind,
                self.bits,
                symmetric=self.symmetric,
                strategy="channel" if self.granularity is Granularity.ROW else self.granularity,
                group_size=self.group_size or None,
                block_structure=list(self.block) if self.block else None,
            ),
            "input_activations": inputs,
            "output_activations": None,
            "format": self.format.value,
        }


def _arguments(kind: str, bits: int, **fields: Any) -> dict[str, Any]:
    """One ``QuantizationArgs`` of the format; absent fields keep their defaults there."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {"num_bits": bits, "type": kind, "symmetric": True, "dynamic": False} | {
        name: str(value) if isinstance(value, enum.Enum) else value for name, value in given.items()
    }


def _int4(group: int, *, symmetric: bool) -> Scheme:
    name = f"int4-g{group}" if symmetric else f"int4-g{group}-asym"
    return Scheme(name, "int", 4, Granularity.GROUP, symmetric, group_size=group, linear_only=True)


_ALL = (
    Scheme("fp32", "dense", 32),
    Scheme("fp16", "dense", 16),
    Scheme("bf16", "dense", 16),
    Scheme("int8", "int", 8, Granularity.ROW),
    Scheme("int8-dynamic", "int", 8, Granularity.ROW, activations="int8", linear_only=True),
    Scheme("int8-block", "int", 8, Granularity.BLOCK, block=(64, 64), linear_only=True),
    *(_int4(group, symmetric=symmetric) for symmetric in (True, False) for group in (32, 64, 128)),
    Scheme("fp8", "float", 8, Granularity.ROW, linear_only=True),
    Scheme("fp8-dynamic", "float", 8, Granularity.ROW, activations="fp8", linear_only=True),
    Scheme("fp8-block", "float", 8, Granularity.BLOCK, block=(128, 128), linear_only=True),
    Scheme(
        "fp8-block-dynamic", "float", 8, Granularity.BLOCK, block=(128, 128), activations="fp8",
        activation_group=128, linear_only=True,
    ),
)  # fmt: skip
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in _ALL}
"""Every scheme by its name. ``int8`` on an embedding table means one scale a row."""


def scheme_named(name: str) -> Scheme:
    """The scheme of a name.

    Raises:
        PrecisionError: there is none.
    """
    try:
        return SCHEMES[name]
    except KeyError:
        raise PrecisionError(
            f"There is no quantization scheme '{name}'.",
            hint=f"Schemes: {', '.join(SCHEMES)}.",
            reason="UnknownScheme",
        ) from None


def scheme_from_config(group: str, entry: Mapping[str, Any]) -> Scheme:
    """The scheme that an entry of ``config_groups`` describes; the inverse of `Scheme.to_config`.

    Raises:
        PrecisionError: no scheme of this release stores weights or rounds inputs that way.
    """
    wanted = _shape_of(entry)
    for scheme in SCHEMES.values():
        if scheme.quantized and _shape_of(scheme.to_config([])) == wanted:
            return scheme
    weights = entry.get("weights")
    raise PrecisionError(
        f"The group '{group}' of this checkpoint is quantized in a way that cannot be read: "
        f"weights {weights}, inputs {entry.get('input_activations')}.",
        hint=f"Quantize the original weights again with one of: {', '.join(SCHEMES)}.",
        reason="UnknownScheme",
    )


_DEFAULTS = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
_COMPARED = (*_DEFAULTS, "strategy", "group_size", "block_structure")


def _shape_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two equal descriptions have in common, whichever defaults they spell out."""
    found: list[Any] = [bool(entry.get("output_activations"))]
    for part in ("weights", "input_activations"):
        arguments = entry.get(part)
        if not isinstance(arguments, Mapping):
            found.append(None)
            continue
        fields = {name: arguments.get(name, _DEFAULTS.get(name)) for name in _COMPARED}
        if fields["strategy"] is None:  # the format derives it from the size of a group
            size = fields["group_size"]
            fields["strategy"] = "tensor" if size is None else "group" if size > 0 else "channel"
        if fields["strategy"] != "group":
            fields["group_size"] = None
        found.append(tuple(str(fields[name]).lower() for name in _COMPARED))
    return tuple(found)
