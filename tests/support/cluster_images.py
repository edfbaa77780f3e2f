"""Images that end-to-end tests put into the cluster: the project's own, and model bundles.

Small bundles are written here and packed without a builder; the two models of
``examples/nlp-vision-joint.yaml`` are prepared with random weights by ``deepseek prepare``, and
those of the quickstart with their own. ``python -m tests.support.cluster_images`` prepares them
before the tests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepseek_engine.prepare.api import RECIPE_VERSION

from deploy.cluster.oci import File, write_image
from deploy.images.__main__ import INPUTS_LABEL, local_name
from deploy.images.tools import find_builder
from tests.support.bundles import digest_of, write_classifier, write_echo, write_slow
from tests.support.cluster import Kube, run_tool

__all__ = [
    "Bundle", "load_bundles", "load_images", "load_project_images", "load_quickstart_bundles",
    "load_seed_bundles", "prepared_image",
]  # fmt: skip

_WRITERS: Final[Mapping[str, Callable[[Path], Path]]] = {
    "echo": lambda folder: write_echo(folder, name="echo"),
    "other": lambda folder: write_echo(folder, name="other"),
    "colours": lambda folder: write_classifier(folder, name="colours"),
    "slow": lambda folder: write_slow(folder, steps=8, name="slow"),
}
SEED_MODELS: Final = ("bert-base", "resnet50")
QUICKSTART_MODELS: Final = ("minilm", "efficientnet-lite0")
_DIGEST_LABEL: Final = "ai.deepseek.bundle.digest"
_NOTE: Final = "e2e.deepseek.ai"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that the cluster has as an image."""

    reference: str
    """Name of the image."""
    digest: str
    """Digest of the bundle's manifest."""

    @property
    def source(self) -> dict[str, str]:
        """``source`` of a model."""
        return {"uri": f"oci://{self.reference}", "digest": self.digest}


def load_project_images(kube: Kube) -> None:
    """Bring the operator's and the CPU worker's image into the cluster, if they are not there."""
    builder, [node, *_] = find_builder(), kube.items("Node")
    noted = node["metadata"].get("annotations", {})
    for name in ("operator", "worker-cpu"):
        reference, key = local_name(name), f"{_NOTE}/{name}"
        # The tag stays the same from build to build, so what was loaded is noted on the node.
        inputs = builder.label(reference, INPUTS_LABEL)
        assert inputs is not None, f"{reference} does not exist: make images"
        if noted.get(key) != inputs or reference not in _on_node(kube):
            load_images([reference])
            note = {"metadata": {"annotations": {key: inputs}}}
            kube.merge("Node", node["metadata"]["name"], note)


def load_bundles(kube: Kube) -> dict[str, Bundle]:
    """Write the small bundles and bring them into the cluster; by name."""
    there, found, archives = _on_node(kube), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for name, write in _WRITERS.items():
            folder = write(Path(scratch) / name)
            digest = digest_of(folder)
            reference = f"localhost/deepseek/e2e-{name}:{digest.removeprefix('sha256:')[:12]}"
            found[name] = Bundle(reference, digest)
            if reference in there:
                continue
            files = {file.name: File(file.read_bytes()) for file in folder.iterdir()}
            archives.append(Path(scratch) / f"{name}.tar")
            write_image(archives[-1], reference=reference, files=files)
        load_images([str(path) for path in archives])
    return found


def load_seed_bundles(kube: Kube) -> dict[str, Bundle]:
    """Prepare the seed file's two models with random weights and bring them into the cluster."""
    return _load_prepared(kube, SEED_MODELS, "random")


def load_quickstart_bundles(kube: Kube) -> dict[str, Bundle]:
    """Prepare the quickstart's two models with their real weights, likewise."""
    return _load_prepared(kube, QUICKSTART_MODELS, "real")


def _load_prepared(kube: Kube, names: Sequence[str], weights: str) -> dict[str, Bundle]:
    found = {name: prepared_image(name, weights) for name in names}
    there = _on_node(kube)
    load_images([bundle.reference for bundle in found.values() if bundle.reference not in there])
    return found


def prepared_image(name: str, weights: str) -> Bundle:
    """A catalog model as an image of this machine's store; prepared when it is not there."""
    # What another recipe made answers otherwise than what is prepared here and now.
    tag = f"{weights}-recipe{RECIPE_VERSION}"
    builder, reference = find_builder(), f"localhost/deepseek/bundle-{name}:{tag}"
    if builder.label(reference, _DIGEST_LABEL) is None:
        run_tool(
            *(sys.executable, "-m", "deepseek", "prepare", name),
            *("--weights", weights, "--image", reference),
            timeout_s=900,
        )
    return Bundle(reference, str(builder.label(reference, _DIGEST_LABEL)))


def _on_node(kube: Kube) -> set[str]:
    # A node lists 50 images at most; one that is left out is merely loaded again.
    images = [image for node in kube.items("Node") for image in node["status"].get("images", ())]
    return {name for image in images for name in image.get("names") or ()}


def load_images(sources: Sequence[str]) -> None:
    """Bring archives, or images of this machine's store, into the cluster."""
    if sources:
        command = (sys.executable, "-m", "deploy.cluster", "load", *sources)
        try:
            run_tool(*command, timeout_s=300)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"loading {sources} took more than {error.timeout} s") from error


if __name__ == "__main__":
    # Before the tests, so that none of them waits for minutes and runs into its time limit.
    for weights, names in (("random", SEED_MODELS), ("real", QUICKSTART_MODELS)):
        for name in names:
            sys.stdout.write(f"{prepared_image(name, weights).reference}\n")
