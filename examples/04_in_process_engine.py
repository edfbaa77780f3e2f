"""A model without a server: the engine in this process.

The first run prepares the model, which takes up to a minute; later runs take it from the cache.
Run:  python examples/04_in_process_engine.py [MODEL_OR_PATH]
"""

from __future__ import annotations

import sys

from deepseek import DeepseekError, InferenceEngine

TEXTS = [f"Sentence number {number}." for number in range(100)]


def main() -> int:
    """Embed a hundred texts, 64 at a time."""
    model = sys.argv[1] if len(sys.argv) > 1 else "minilm"
    try:
        with InferenceEngine(model_path=model, device="cpu", precision="auto") as engine:
            vectors = engine.batch_infer(TEXTS, batch_size=64)
            print(f"{len(vectors)} vectors of {vectors[0].size} numbers")
            print(f"precision: {engine.info.precision} (variant {engine.info.variant})")
    except DeepseekError as error:  # Says what is wrong and what to do.
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
