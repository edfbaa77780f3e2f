"""Quantized and fused operations: Triton kernels, their plain torch references, custom ops.

One module for each operation. The package knows torch and Triton and nothing else of the project,
so that a kernel can be tested, tuned and measured alone.
"""
