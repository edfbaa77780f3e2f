"""Quantized weights while a model runs: schemes, layers and the format of checkpoints.

Nothing here decides how a layer is quantized or looks for better roundings: that is
`deepseek_engine.prepare.quant`, which serving never imports. Only :mod:`.schemes` may be imported
without torch; the other modules are imported when a torch variant is opened.
"""
