"""The rule of adaptive quantization under the names that users know; needs no torch."""

from __future__ import annotations

from deepseek_engine.prepare.quant.policy import QuantizationMode, adaptive_quantization

__all__ = ["QuantizationMode", "adaptive_quantization"]
