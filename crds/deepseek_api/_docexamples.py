"""Examples for the generated reference, one per type; tests validate each against its type.

Why it exists: an example that nobody runs goes stale. Only the reference generator and its tests
use this module.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EXAMPLES"]

EXAMPLES: Final[dict[str, str]] = {
    "ModelPipeline": """
apiVersion: deepseek.ai/v1alpha1
kind: ModelPipeline
metadata:
  name: nlp-vision-joint
spec:
  models:
  - name: bert-base
    type: NLP
    replicas: 2
  - name: resnet50
    type: CV
    replicas: 1
  scheduler:
    policy: priority-based
    priorityRules:
    - modelType: NLP
      weight: 0.7
""",
    "Model": """
name: sentences
type: NLP
task: text-embedding
replicas: 2
source:
  uri: hf://google-bert/bert-base-uncased
precision: int8
device: cpu
resources:
  requests: {cpu: "2", memory: 1Gi}
batching:
  maxBatchSize: 32
  latencyTargetMs: 20
""",
    "Source": """
uri: pvc://models/bert-base
digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
""",
    "Quantization": "groupSize: 128\nkvCache: fp8",
    "Parallelism": "tensor: 2\npipeline: 1",
    "Resources": "requests: {cpu: 500m, memory: 1Gi}\nlimits: {memory: 2Gi}",
    "Batching": "maxBatchSize: 16\nlatencyTargetMs: 50\nmaxQueueSize: 256",
    "Generation": "maxSequences: 32\nmaxTokens: 1024\nspeculative: {guesses: 4}",
    "Speculative": "ngram: 3\nguesses: 4",
    "Adapter": "name: support\nsource: {uri: pvc://models/adapters/support}",
    "AdapterSource": "uri: pvc://models/adapters/support",
    "Autoscaling": """
minReplicas: 1
maxReplicas: 8
metrics:
- type: Resource
  resource:
    name: cpu
    target: {type: Utilization, averageUtilization: 60}
""",
    "Metric": """
type: Pods
pods:
  metric: {name: queue_length}
  target: {type: AverageValue, averageValue: "4"}
""",
    "Rollout": "strategy: Auto",
    "Scheduler": """
policy: priority-based
priorityRules:
- {modelType: NLP, weight: 0.7}
- {modelType: CV, weight: 0.2}
budget: {replicas: 10}
""",
    "PriorityRule": "modelType: NLP\nweight: 0.7",
    "Budget": "gpus: 8",
    "CatalogEntry": """
name: my-encoder
description: An encoder of our own.
source: {uri: s3://models/my-encoder, revision: v3}
task: text-embedding
type: NLP
architecture: transformers/bert-base-uncased
preprocessing: {kind: text, maxLength: 256}
postprocessing: {kind: embedding, pooling: mean, normalize: true}
memoryRequest: 1Gi
license: proprietary
downloadMiB: 420
""",
}
"""YAML by the name of the type."""
