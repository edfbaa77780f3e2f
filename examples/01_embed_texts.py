"""Vectors of texts, and how similar they are.

Needs a running server:  deepseek serve -f examples/quickstart.yaml
Run:  python examples/01_embed_texts.py [HOST:PORT]
"""

from __future__ import annotations

import sys

from deepseek import Client

TEXTS = [
    "How do I change my password?",
    "I forgot my login and need a new one.",
    "The train to Vienna leaves at noon.",
]


def main() -> None:
    """Embed three texts and compare the first one with the others."""
    url = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    with Client(url) as client:
        client.wait_ready(timeout=60)
        vectors = client.embed("minilm", TEXTS)  # float32 [texts, dimensions], length 1 each
    for text, similarity in zip(TEXTS[1:], vectors[1:] @ vectors[0], strict=True):
        print(f"{similarity:.3f}  {text}")


if __name__ == "__main__":
    main()
