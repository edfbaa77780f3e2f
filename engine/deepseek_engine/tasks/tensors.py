"""The task ``tensors``: what is sent goes into the graph, what comes out is sent back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepseek_api.errors import BundleError

from deepseek_engine.codec import Array, to_array, to_tensor
from deepseek_engine.messages import (
    DATATYPE_BYTES,
    InferenceRequest,
    Tensor,
    TensorSpec,
    WireTensor,
)
from deepseek_engine.tasks.base import Interface, Part, Prepared, TaskContext, stack

__all__ = ["Tensors"]

_PROBE_SIZE = 1
_HEAVY_BYTES = 16 * 1024


class Tensors:
    """Raw tensors in, raw tensors out."""

    def __init__(self, context: TaskContext) -> None:
        """Take inputs and outputs from the graph, in the order of the manifest's signature.

        Raises:
            BundleError: the signature names a tensor that the graph does not have.
        """
        signature = context.bundle.manifest.signature
        inputs = _ordered([spec.name for spec in signature.inputs], context.graph_inputs)
        outputs = _ordered([spec.name for spec in signature.outputs], context.graph_outputs)
        self._types = {spec.name: spec.datatype for spec in outputs}
        self._empty = context.empty
        self._single = context.row_batching == "single"
        self.interface = Interface(
            inputs=inputs,
            outputs=outputs,
            default_outputs=tuple(spec.name for spec in outputs),
            probe=tuple(_zeros(spec) for spec in inputs),
        )

    def is_heavy(self, request: InferenceRequest) -> bool:
        """Only many BYTES elements take time; other arrays are views on the request's bytes."""
        return any(t.datatype == "BYTES" and len(t.data) > _HEAVY_BYTES for t in request.inputs)

    def prepare(self, request: InferenceRequest) -> Prepared:
        """Views on the request's bytes; parts whose row shapes are equal may share a batch."""
        arrays = {tensor.name: to_array(tensor) for tensor in request.inputs}
        rows = request.inputs[0].shape[0]
        outputs = request.outputs or self.interface.default_outputs
        bucket = tuple(array.shape[1:] for array in arrays.values())
        groups = [(row,) for row in range(rows)] if self._single else [tuple(range(rows))]
        parts = [
            Part(
                bucket=bucket,
                rows=group,
                arrays={name: a[group[0] : group[-1] + 1] for name, a in arrays.items()},
            )
            for group in groups
        ]
        return Prepared(rows=rows, parts=parts, outputs=outputs, graph_outputs=outputs)

    def collate(self, parts: Sequence[Part]) -> Mapping[str, Array]:
        """The parts one after the other."""
        return stack(parts, self._empty)

    def reduce(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """The graph's outputs as they are."""
        return outputs

    def finish(self, prepared: Prepared, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """The graph's outputs as they are."""
        return tuple(to_tensor(n, self._types[n], arrays[n]) for n in prepared.outputs)


def _ordered(names: Sequence[str], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    found = {spec.name: spec for spec in specs}
    for name in names:
        if name not in found:
            raise BundleError(
                f"The manifest names the tensor '{name}', which the graph does not have.",
                hint="Prepare the bundle again.",
                reason="SignatureMismatch",
            )
    for name, spec in found.items():
        if not spec.shape:
            raise BundleError(
                f"The graph's tensor '{name}' has no batch dimension.",
                reason="SignatureMismatch",
            )
    # Dimension 0 is the batch whatever the graph calls it.
    return tuple(TensorSpec(n, found[n].datatype, (-1, *found[n].shape[1:])) for n in names)


def _zeros(spec: TensorSpec) -> WireTensor:
    shape = tuple(_PROBE_SIZE if size < 0 else size for size in spec.shape)
    count = 1
    for size in shape:
        count *= size
    # A BYTES element of length zero is four zero bytes.
    width = DATATYPE_BYTES.get(spec.datatype, 4)
    return WireTensor(spec.name, spec.datatype, shape, bytes(count * width))
