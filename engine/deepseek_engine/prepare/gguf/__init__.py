"""GGUF files, the format of llama.cpp, as checkpoints in the hub's naming.

Why it exists: many models are published as a single GGUF file only. What serves and what quantizes
reads safetensors, ``config.json`` and ``tokenizer.json``, so a file is turned into those once.
Needs the package ``gguf`` for the tables of data types and the arithmetic of dequantizing.
"""
