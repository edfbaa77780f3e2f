"""Architectures that are defined here, because no library of the `prepare` extra has them.

Modules of this package import torch: serving reaches them by name only, when a torch variant is
opened, and never on the ONNX Runtime path.
"""
