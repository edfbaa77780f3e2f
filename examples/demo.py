"""Two real models from nothing to answers: what ``make demo`` runs.

Starts ``deepseek serve -f examples/quickstart.yaml`` as a child process on free ports, sends texts
and photographs over gRPC with the SDK, prints the answers, and stops the child again, also when
something fails or Ctrl-C is pressed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import skimage
from deepseek import Client, DeepseekError
from deepseek_api.catalog import builtin_catalog
from deepseek_engine.prepare.api import cache_folder

PIPELINE = Path(__file__).resolve().parent / "quickstart.yaml"
TEXT_MODEL, IMAGE_MODEL = "minilm", "efficientnet-lite0"
PAIRS = [
    ("A man is eating pasta.", "Someone has spaghetti for dinner."),
    ("How do I reset my password?", "I cannot log in to my account."),
    ("How do I reset my password?", "The train to Vienna leaves at noon."),
]
PICTURES = ["coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png"]
ADDRESS = re.compile(r"gRPC on (\S+),")
STOP_SECONDS = 45.0


def announce() -> None:
    """Say what will happen, where its files go and how large they are."""
    print("Demo: two real models, quantized for this machine, called over gRPC.")
    for name in (TEXT_MODEL, IMAGE_MODEL):
        entry = builtin_catalog().get(name)
        print(f"  {name}: {entry.description} Weights: {entry.download_mib} MiB.")
    print("The weights came with the packages of 'make setup'; nothing is downloaded now.")
    print(f"Models are prepared once and kept in {cache_folder()} (about 250 MiB).\n", flush=True)


@contextmanager
def signals_held() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block, not in the middle of it."""
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in held:
            signal.raise_signal(late)


@contextmanager
def server() -> Iterator[str]:
    """The quickstart pipeline in a process of its own; gives its gRPC address."""
    command = [sys.executable, "-m", "deepseek", "serve", "-f", str(PIPELINE)]
    command += ["--grpc-port", "0", "--http-port", "0", "--log-level", "warning"]
    child = None
    try:
        with signals_held():  # One between the fork and the assignment would leave an orphan.
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        yield wait_for_address(child)
    finally:
        if child is not None:
            stop(child)


def stop(child: subprocess.Popen[str]) -> None:
    """End a process, politely at first."""
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_for_address(child: subprocess.Popen[str]) -> str:
    """Show what the server prints until it says where it listens."""
    assert child.stdout is not None  # it is a pipe, see above
    for line in child.stdout:
        found = ADDRESS.search(line)
        if found:
            return found[1]
        print(line, end="", flush=True)
    raise SystemExit(child.wait() or 1)  # Its own message says why it ended.


def show_texts(client: Client, started: float) -> None:
    """Similarity of text pairs, and the time until the first answer."""
    texts = [text for pair in PAIRS for text in pair]
    client.embed(TEXT_MODEL, texts[:1])
    first_answer = time.monotonic() - started
    begin = time.perf_counter()
    result = client.infer(TEXT_MODEL, {"text": texts})
    latency_ms = (time.perf_counter() - begin) * 1000
    vectors = result["embedding"]
    print(f"\n{TEXT_MODEL}: {len(texts)} texts in {latency_ms:.1f} ms, {how(result.parameters)}")
    for number, (left, right) in enumerate(PAIRS):
        similarity = float(vectors[2 * number] @ vectors[2 * number + 1])
        print(f"  similarity {similarity:5.2f}  {left!r} and {right!r}")
    print(f"First answer {first_answer:.1f} s after the start of the demo.")


def show_pictures(client: Client) -> None:
    """The best five labels of some photographs."""
    folder = Path(skimage.__file__).parent / "data"
    for name in PICTURES:
        data = (folder / name).read_bytes()
        begin = time.perf_counter()
        result = client.infer(IMAGE_MODEL, {"image": [data]}, parameters={"top_k": 5})
        latency_ms = (time.perf_counter() - begin) * 1000
        labels, scores = result["labels"][0], result["scores"][0]
        print(f"\n{IMAGE_MODEL}: {name} in {latency_ms:.1f} ms, {how(result.parameters)}")
        for label, score in zip(labels, scores, strict=True):
            print(f"  {score:6.1%}  {label.decode()}")


def how(parameters: dict[str, bool | int | float | str]) -> str:
    """Precision and variant as the server reports them."""
    return f"precision {parameters.get('precision')} (variant {parameters.get('variant')})"


def leave(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C does, so that the server is stopped."""
    sys.exit(128 + number)


def main() -> int:
    """Run the demo; return the exit status."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, leave)
    announce()
    try:
        with server() as url, Client(url) as client:
            show_texts(client, started)
            show_pictures(client)
    except DeepseekError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    call = os.path.relpath(Path(sys.executable).with_name("deepseek"))
    print("\nEverything is stopped again. To keep it running and call it from another terminal:")
    print("  make serve")
    print(f"  {call} infer --model {TEXT_MODEL} --text 'a cat' 'a kitten'")
    print(f"  {call} infer --model {IMAGE_MODEL} --image PICTURE.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
