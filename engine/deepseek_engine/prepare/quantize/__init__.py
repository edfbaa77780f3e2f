"""Quantization of exported graphs: encoders dynamically, convolutional networks statically."""
