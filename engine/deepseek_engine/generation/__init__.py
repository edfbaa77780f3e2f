"""Generating text, token by token: sequences, the paged cache, batching by step, sampling.

Why it exists: a request that generates lives for many steps of a device, joins and leaves batches
between them, and answers in parts; nothing of that fits the queue of whole requests that the other
tasks share. `requests` is what callers say and hear and imports no runtime; what computes imports
torch and is loaded when a model that generates is opened, never before.
"""
