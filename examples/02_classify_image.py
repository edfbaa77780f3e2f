"""What is in a picture.

Needs a running server:  deepseek serve -f examples/quickstart.yaml
Run:  python examples/02_classify_image.py [HOST:PORT] [PICTURE...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage
from deepseek import Client

CAT = Path(skimage.__file__).parent / "data" / "chelsea.png"


def main() -> None:
    """Print the three best labels of every picture."""
    url = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    pictures = [Path(name) for name in sys.argv[2:]] or [CAT]
    with Client(url) as client:
        client.wait_ready(timeout=60)
        answers = client.classify("efficientnet-lite0", pictures, top_k=3)
    for picture, labels in zip(pictures, answers, strict=True):
        print(picture.name)
        for label, score in labels:
            print(f"  {score:.1%}  {label}")


if __name__ == "__main__":
    main()
