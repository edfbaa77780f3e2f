"""Quantizing torch modules and safetensors checkpoints: policies, calibration, rounding, reports.

The sibling package `quantize` rewrites ONNX graphs for CPUs; both follow the rule that
:func:`.policy.adaptive_quantization` states.
"""
