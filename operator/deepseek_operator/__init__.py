"""The operator: keeps a cluster as its ModelPipelines say.

`handlers` turns watch events into keys, `workqueue` runs `reconcile` once a key at a time, and
everything that decides something (`resolve`, `scaling`, `render`, `status`) is pure. `kube` is the
only module that talks to the API server. Nothing here may import torch or grpc.
"""

from __future__ import annotations

__version__ = "0.1.0"
