"""Message types and stubs of the protocols that this project speaks.

Why it exists: the worker, the client and the tests share one set of generated types. They live in
a descriptor pool of their own, so that other packages which also define ``package inference``
(Triton's client, for one) can be imported into the same process, in any order.

Import the modules, for example ``from deepseek_protos import inference_pb2``. The files
``*_pb2*.py`` and ``*.pyi`` are written by ``python -m deepseek_protos.generate``; do not edit them.
"""

from __future__ import annotations

__all__: list[str] = []
