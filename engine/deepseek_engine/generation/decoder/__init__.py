"""The decoder: one definition in plain torch for all variants, over the paged cache.

Why it exists: a variant is a configuration, not a class, so that what is proven for one (paging,
chunks, sharding, quantized weights) holds for all. `model` is the whole; `build` makes its layers
from tensors. Imports torch; import it only where a model that generates is opened.
"""
