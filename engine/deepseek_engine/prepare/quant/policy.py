"""Which layer of a model is stored in which way.

Why it exists: one place owns the rule that users know as :func:`adaptive_quantization`. The
policies here extend it for torch modules and checkpoints; the ONNX variants for CPUs take their
parts from it too. Nothing here imports torch, and nothing rounds a weight.

A policy is a list of rules; the first that matches a layer decides. Where a shape does not allow
what the rule wants, :meth:`Policy.choose` takes the next best scheme by a fixed rule and says why,
unless the rule names that very layer: then it is an error.
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

from deepseek_api.errors import ConfigurationError, PrecisionError
from deepseek_api.vocabulary import Precision

from deepseek_engine.prepare.quant.kinds import ROUTERS, Layer, LayerType
from deepseek_engine.quant.schemes import SCHEMES, Granularity, Scheme, scheme_named

KEEP = "keep"
"""Instead of a scheme: the weight stays in the data type that it has."""
SMALLEST = 1024
"""Numbers from which on a weight is worth quantizing; below, the scales and the code cost more."""
LEAST_INT4_COLUMNS = 128
"""K from which on int4 is used: below, one bad rounding is too large a part of a sum."""


class QuantizationMode(enum.StrEnum):
    """The number format of one layer."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"


def adaptive_quantization(layer: Any) -> QuantizationMode:
    """The number format of a layer by its kind: attention fp16, feed-forward int8, the rest bf16.

    Args:
        layer: anything with a text attribute ``type``: ``attention``, ``ffn`` or another word.

    Raises:
        ConfigurationError: the layer has no such attribute (a torch module has a method of that
            name; classify the model first).
    """
    found = getattr(layer, "type", None)
    if not isinstance(found, str):
        raise ConfigurationError(
            f"This layer does not say what it is: {type(layer).__name__} has no text attribute "
            "'type'.",
            hint="Set layer.type to 'attention', 'ffn' or another word, or get layers with types "
            "from deepseek_engine.prepare.quant.api.layers_of(module).",
        )
    if found == LayerType.ATTENTION:
        return QuantizationMode.FP16
    if found == LayerType.FEED_FORWARD:
        return QuantizationMode.INT8
    return QuantizationMode.BF16


def mixed_mode(kind: LayerType) -> QuantizationMode:
    """The rule of precision ``mixed``: `adaptive_quantization`, and what it leaves large in int8.

    Convolutions are the feed-forward layers of vision models; embeddings int8 by row.
    """
    if kind in {LayerType.CONVOLUTION, LayerType.EMBEDDING}:
        return QuantizationMode.INT8
    return adaptive_quantization(SimpleNamespace(type=kind.value))


@dataclass(frozen=True, slots=True)
class Rule:
    """Some layers and the scheme that they get; conditions left out match everything."""

    scheme: str
    """A name of `SCHEMES`, or `KEEP`."""
    types: frozenset[LayerType] = frozenset()
    names: str = ""
    """A pattern for the dotted name: with ``*`` and ``?``, or ``re:`` and a regular expression."""
    min_parameters: int = 0
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        if self.scheme != KEEP:
            scheme_named(self.scheme)

    @property
    def explicit(self) -> bool:
        """Whether it names one layer, rather than a kind of layers."""
        return bool(self.names) and not re.search(r"^re:|[*?\[]", self.names)

    def matches(self, layer: Layer) -> bool:
        """Whether it is about a layer."""
        if self.types and layer.type not in self.types:
            return False
        if layer.parameters < self.min_parameters:
            return False
        if self.max_parameters is not None and layer.parameters > self.max_parameters:
            return False
        if self.names.startswith("re:"):
            return re.search(self.names[3:], layer.name) is not None
        return not self.names or fnmatch.fnmatchcase(layer.name, self.names)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a layer gets."""

    scheme: Scheme | None
    """None keeps the weight as it is."""
    wanted: str
    """The scheme that the rule names."""
    reason: str = ""
    """Why it is another than the wanted one; empty if it is not."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Ordered rules for the layers of a model."""

    name: str
    rules: tuple[Rule, ...]
    default: str = "bf16"
    """What layers get that no rule matches, and parameters that belong to no layer."""
    overrides: tuple[Rule, ...] = field(default=())
    """Rules of the user, looked at first."""

    def with_rules(self, *rules: Rule) -> Policy:
        """The same with rules that come before all others."""
        return Policy(self.name, self.rules, self.default, (*rules, *self.overrides))

    def choose(self, layer: Layer) -> Choice:
        """Decide about one layer.

        Raises:
            PrecisionError: a rule that names this very layer wants a scheme that it cannot have.
        """
        for rule in (*self.overrides, *self.rules):
            if rule.matches(layer):
                return self._fitting(layer, rule.scheme, explicit=rule.explicit)
        return self._fitting(layer, self.default, explicit=False)

    def _fitting(self, layer: Layer, wanted: str, *, explicit: bool) -> Choice:
        name, reasons = wanted, []
        while name != KEEP and (refused := _refusal(SCHEMES[name], layer)) is not None:
            reason, fallback = refused
            if explicit:
                raise PrecisionError(
                    f"The layer '{layer.name}' cannot have the scheme '{wanted}': {reason}.",
                    hint="Choose another scheme for it, or leave the rule that names it out: then "
                    "the next best scheme is taken and the report says so.",
                    reason="SchemeDoesNotFit",
                )
            reasons.append(reason)
            name = fallback or self.default
        return Choice(None if name == KEEP else SCHEMES[name], wanted, "; ".join(reasons))


def check_overrides(policy: Policy, layers: Sequence[Layer]) -> None:
    """Refuse rules of the user that match nothing: a name was misspelt.

    Raises:
        ConfigurationError: it names the rule.
    """
    for rule in policy.overrides:
        if not any(map(rule.matches, layers)):
            what = f"names '{rule.names}'" if rule.names else f"types {sorted(rule.types)}"
            raise ConfigurationError(
                f"The rule for {what} matches no layer.",
                hint="Names are those of the checkpoint without '.weight'; patterns may hold * "
                "and ?.",
                reason="RuleMatchesNothing",
            )


def _refusal(scheme: Scheme, layer: Layer) -> tuple[str, str] | None:
    """Why a layer cannot have a scheme, and what it gets instead (empty: the default)."""
    if not scheme.quantized:
        return None
    if layer.kind == "other":
        return "it has no weight matrix", ""
    if layer.parameters < SMALLEST:
        return f"it has only {layer.parameters} weights", ""
    if scheme.linear_only and layer.kind != "linear":
        what = "a convolution" if layer.kind == "conv" else "an embedding"
        return f"{what} can only be int8 by row", "int8"
    if scheme.granularity is not Granularity.GROUP:
        return None
    if layer.columns < LEAST_INT4_COLUMNS:
        return f"K = {layer.columns} is less than {LEAST_INT4_COLUMNS}", "int8"
    if layer.columns % scheme.group_size:
        reason = f"K = {layer.columns} is no multiple of {scheme.group_size}"
        return reason, _smaller_group(scheme, layer.columns)
    return None


def _smaller_group(scheme: Scheme, columns: int) -> str:
    """The scheme with the largest smaller group that divides K, else int8."""
    fitting = [
        other
        for other in SCHEMES.values()
        if other.granularity is Granularity.GROUP
        and other.symmetric == scheme.symmetric
        and other.group_size < scheme.group_size
        and columns % other.group_size == 0
    ]
    return max(fitting, key=lambda other: other.group_size).name if fitting else "int8"


def mixed() -> Policy:
    """The policy of precision ``mixed``."""
    rules = [Rule(mixed_mode(kind).value, types=frozenset({kind})) for kind in LayerType]
    return Policy("mixed", tuple(rules))


def uniform(scheme: str, *, embeddings: str = KEEP, head: str = KEEP, rest: str = KEEP) -> Policy:
    """One scheme for all linear and convolutional layers.

    Left alone unless said otherwise: embeddings, the head and everything small, as published
    quantized checkpoints have it; routers always.
    """
    return Policy(
        scheme,
        (
            Rule(KEEP, names=f"re:{ROUTERS}"),
            Rule(embeddings, types=frozenset({LayerType.EMBEDDING})),
            Rule(head, types=frozenset({LayerType.HEAD})),
            Rule(rest, types=frozenset({LayerType.NORM})),
            Rule(scheme),
        ),
        default=rest,
    )


_WITH_INT8 = {"embeddings": "int8", "rest": "bf16"}
_BY_PRECISION: dict[str, Callable[[], Policy]] = {
    Precision.FP32: lambda: Policy("fp32", (), default="fp32"),
    Precision.FP16: lambda: Policy("fp16", (), default="fp16"),
    Precision.BF16: lambda: Policy("bf16", (), default="bf16"),
    Precision.INT8: lambda: uniform("int8-dynamic", head="int8", **_WITH_INT8),
    Precision.INT4: lambda: uniform("int4-g128", head="int8", **_WITH_INT8),
    Precision.FP8: lambda: uniform("fp8-dynamic", head="fp8", **_WITH_INT8),
    Precision.MIXED: mixed,
}


def for_precision(precision: str) -> Policy:
    """The policy of a precision of a ModelPipeline, for a whole module.

    Raises:
        PrecisionError: ``auto`` (a result of measuring, see `measured_best`), or unknown.
    """
    try:
        return _BY_PRECISION[precision]()
    except KeyError:
        raise PrecisionError(
            f"There is no policy for the precision '{precision}'.",
            hint=f"Precisions with one: {', '.join(_BY_PRECISION)}; auto is chosen by measuring.",
        ) from None


def policy_named(name: str) -> Policy:
    """A policy by the name of a scheme or of a mixture: ``int4-g128``, ``mixed``.

    Raises:
        PrecisionError: there is none.
    """
    return mixed() if name == Precision.MIXED else uniform(scheme_named(name).name)


Candidate = TypeVar("Candidate")


def measured_best(
    reference: Candidate,
    others: Iterable[Candidate],
    *,
    keeps_bound: Callable[[Candidate], bool],
    milliseconds: Callable[[Candidate], float | None],
) -> Candidate:
    """What ``auto`` means: the fastest that was measured and keeps the bound of accuracy.

    Args:
        reference: what the others are compared with; it keeps every bound.
        others: candidates.
        keeps_bound: whether a candidate is accurate enough; what was not compared is not.
        milliseconds: time of a call; None if it was not measured.

    Returns:
        The reference if nothing else is faster.
    """
    timed: Sequence[tuple[float, Candidate]] = [
        (time, candidate)
        for candidate in (reference, *(other for other in others if keeps_bound(other)))
        if (time := milliseconds(candidate)) is not None
    ]
    return min(timed, key=lambda pair: pair[0])[1] if timed else reference
