"""The inference engine: bundles, back ends, batching and fair sharing of one device.

Importing this package loads neither ONNX Runtime nor torch; back ends import their runtime when a
bundle that needs it is opened. Front ends must import :mod:`deepseek_engine.client` only.
"""
