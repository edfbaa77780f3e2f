"""Kernels and models on a GPU beside their peers: ``python -m benchmarks.gpu``.

Runs on a bare machine: Python 3.11 or later, torch and Triton, and this repository; nothing else of
the project has to be installed. Modules here import torch inside functions only, so that harness,
goals and records are tested where there is no GPU.
"""
