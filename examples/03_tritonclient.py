"""The same server, called with an unmodified client of another project.

Needs a running server (deepseek serve -f examples/quickstart.yaml) and tritonclient[grpc].
Run:  python examples/03_tritonclient.py [HOST:PORT]
"""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    """Embed two texts over the Open Inference Protocol."""
    url = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    client = triton.InferenceServerClient(url)
    texts = np.array([b"a cat", b"a kitten"], dtype=np.object_)
    text_input = triton.InferInput("text", list(texts.shape), "BYTES")
    text_input.set_data_from_numpy(texts)
    answer = client.infer("minilm", [text_input])
    first, second = answer.as_numpy("embedding")
    print(f"cosine similarity: {np.dot(first, second):.3f}")
    print(f"precision: {answer.get_response().parameters['precision'].string_param}")
    client.close()


if __name__ == "__main__":
    main()
