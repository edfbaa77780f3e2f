"""Names of what the figures are compared with, as tables show them."""

from __future__ import annotations

ORT_FP32 = "ONNX Runtime fp32"
"""A plain session of the exported fp32 graph, default options."""
ORT_INT8 = "ONNX Runtime int8"
"""A plain session of the same graph after ``quantize_dynamic``, default options."""
SPINNING = {
    "session.force_spinning_stop": "on for ours, off for ONNX Runtime alone",
    "session.dynamic_block_base": "4 for ours, 0 for ONNX Runtime alone",
}
"""The session options for time in which ours and the plain sessions differ on purpose."""
TORCH_FP32 = "torch eager fp32"
"""The transformers class of the model, ``inference_mode``."""
ENGINE = "engine in the caller's process"
"""The same engine without a process boundary."""
ONE_AT_A_TIME = "one request at a time"
"""Our generator with a single seat, on the same weights and requests."""
TRANSFORMERS_GENERATE = "transformers generate"
"""Fixed batches of all clients' next requests, padded on the left, default attention."""
ZMQ_ECHO = "bare pyzmq + msgspec echo"
"""A process that sends every message back."""
