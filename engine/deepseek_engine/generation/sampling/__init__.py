"""Choosing the next tokens of a batch, on the device that computed the scores.

Why it exists: scores of a whole batch are large (a vocabulary for each sequence) and stay where
they are; numbers of tokens come back. `choices` is what a sequence brings along, `filters` are the
tensor functions, `sampler` puts a batch together.
"""

from deepseek_engine.generation.sampling.choices import Choice
from deepseek_engine.generation.sampling.sampler import Pick, Row, Sampler

__all__ = ["Choice", "Pick", "Row", "Sampler"]
