"""ONNX Runtime on the processor.

Why it exists: it is the back end of encoders and vision without a GPU. Sessions are configured
for one inference at a time: all threads work on one batch, and none spins while another session
works. Calls must come from one thread per device.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from deepseek_api.errors import BundleError, ErrorCode, InferenceError
from deepseek_api.manifest import Variant
from onnxruntime.capi import onnxruntime_pybind11_state as state

from deepseek_engine.backends import BackendOptions
from deepseek_engine.backends.devices import require_cpu
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import NUMPY_TYPES, Array
from deepseek_engine.messages import TensorSpec

__all__ = ["OnnxRuntimeBackend", "session_options"]

logger = logging.getLogger(__name__)

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_ONNX_BFLOAT16 = 16
_SEVERITY_FATAL = 4
# What the runtime raises for a value that the graph cannot take, for example a row outside a table.
_CALLERS_FAULT = (state.InvalidArgument,)
_RUNTIME_ERRORS = (
    state.EPFail,
    state.Fail,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
)


def session_options(*, threads: int) -> ort.SessionOptions:
    """Options of a session that has the device to itself while it runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Errors reach the caller as exceptions; the runtime's own lines on stderr are not JSON.
    options.log_severity_level = _SEVERITY_FATAL
    # Without this the threads of one session spin on after its run and take the processor from
    # the next session: two spinning pools in one process double every latency.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Threads take work in blocks that become smaller towards the end of an operator. One block each
    # would let an operator wait for whichever thread shares its core with somebody else: int8
    # encoders are up to 5 % faster on a busy machine, and nothing is slower on an idle one.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    # The memory pattern assumes shapes that repeat; texts differ in length with every batch.
    options.enable_mem_pattern = False
    return options


class OnnxRuntimeBackend:
    """One ONNX graph, opened."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, bundle: OpenBundle, variant: Variant, options: BackendOptions) -> None:
        """Open the graph of a variant.

        Raises:
            BundleError: the runtime cannot read the graph.
            DeviceError: the device is not the processor.
        """
        require_cpu(options.device, backend=self.name)
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(bundle.path(variant.graph)),
                session_options(threads=options.threads),
                providers=["CPUExecutionProvider"],
            )
        except (*_CALLERS_FAULT, *_RUNTIME_ERRORS) as error:
            logger.warning("onnxruntime cannot open a graph", extra={"cause": str(error)})
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot open the graph '{variant.graph}'.",
                hint="Prepare the bundle again with this release; the log has the cause.",
                reason="UnreadableGraph",
            ) from error
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._types = {spec.name: spec.datatype for spec in (*self.inputs, *self.outputs)}
        if {"BF16", "BYTES"} <= set(self._types.values()):
            raise BundleError(
                f"The graph '{variant.graph}' has both BF16 and BYTES tensors, which ONNX Runtime "
                "cannot take together from Python.",
                hint="Use FP32 instead of BF16 at the graph's border.",
                reason="UnreadableGraph",
            )

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the graph once; see `Backend.run`."""
        if self._session is None:
            raise RuntimeError("the session is closed")
        names = list(outputs) if outputs is not None else [spec.name for spec in self.outputs]
        bf16 = any(self._types[name] == "BF16" for name in (*inputs, *names))
        try:
            if bf16:
                return self._run_values(self._session, inputs, names)
            feeds = {name: self._feed(name, array) for name, array in inputs.items()}
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except _CALLERS_FAULT as error:
            raise _failure(error, code=ErrorCode.INVALID_ARGUMENT) from error
        except _RUNTIME_ERRORS as error:
            raise _failure(error, code=ErrorCode.INTERNAL) from error

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _feed(self, name: str, array: Array) -> Array:
        if self._types[name] != "BYTES":
            return array
        # The runtime holds strings as UTF-8 and takes them as str.
        text = np.empty(array.shape, dtype=object)
        for index, element in enumerate(array.flat):
            try:
                text.flat[index] = bytes(element).decode()
            except UnicodeDecodeError:
                raise InferenceError(
                    f"Element {index} of the input '{name}' is not UTF-8 text.",
                    code=ErrorCode.INVALID_ARGUMENT,
                    reason="InvalidInput",
                    hint="This model's BYTES inputs hold text.",
                ) from None
        return text

    def _run_values(
        self, session: ort.InferenceSession, inputs: Mapping[str, Array], names: list[str]
    ) -> dict[str, Array]:
        # NumPy has no BF16, so that its bits go through the runtime's own values.
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(array), _ONNX_BFLOAT16
            )
            if self._types[name] == "BF16"
            else ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in inputs.items()
        }
        results = session.run_with_ort_values(names, values)
        return {
            name: _bits(value) if self._types[name] == "BF16" else value.numpy()
            for name, value in zip(names, results, strict=True)
        }


def _bits(value: ort.OrtValue) -> Array:
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.empty(shape, dtype=NUMPY_TYPES["BF16"])
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    # Copied: the runtime frees the memory with the value.
    return np.ctypeslib.as_array(pointer, (count,)).copy().reshape(shape)


def _spec(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise BundleError(
            f"The graph's tensor '{node.name}' has the type {node.type}, which is not supported.",
            reason="UnreadableGraph",
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _failure(error: Exception, *, code: ErrorCode) -> InferenceError:
    text = str(error)
    logger.warning("onnxruntime run failed", extra={"cause": text})
    # Only the part after the runtime's own wording is for a caller, and only where the caller's
    # values are the cause: other texts may hold file names.
    found = re.search(r"Status Message: (?P<cause>[^\n/\\]{1,200})", text)
    if code is ErrorCode.INVALID_ARGUMENT and found:
        return InferenceError(
            f"The model cannot compute these values: {found['cause'].strip().rstrip('.')}.",
            code=code,
            reason="InvalidInput",
        )
    return InferenceError(
        "The model failed to compute this request.",
        code=code,
        hint="The log of the engine has the cause.",
    )
