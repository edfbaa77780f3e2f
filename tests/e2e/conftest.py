"""One cluster, one installed operator and one namespace for each module of tests."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.operator_release import Release
from tests.support.cluster import ROOT, Kube, Space, Wire, eventually, the_cluster
from tests.support.cluster_images import (
    Bundle,
    load_bundles,
    load_project_images,
    load_seed_bundles,
)

HERE = Path(__file__).resolve().parent
ALLOWED_SKIP = re.compile(r"\[(kind|by hand)\]")
"""Ends the reason of a skip that the gate accepts."""
_FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _FIGURES:
        terminalreporter.section("figures")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures() -> Callable[[str], None]:
    """Take down a line that is printed at the end of the run."""
    return _FIGURES.append


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With DEEPSEEK_E2E_REQUIRED a prerequisite that is missing is a failure, not a skip."""
    report = yield
    required = os.environ.get("DEEPSEEK_E2E_REQUIRED") == "1"
    if report.skipped and required and not ALLOWED_SKIP.search(str(report.longrepr)):
        report.outcome = "failed"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def kube() -> Kube:
    """The cluster; without one the tests are skipped, or fail with DEEPSEEK_E2E_REQUIRED."""
    found = the_cluster()
    if isinstance(found, str):
        if os.environ.get("DEEPSEEK_E2E_REQUIRED"):
            pytest.fail(found)
        pytest.skip(found)
    os.environ["KUBECONFIG"] = str(found)
    kube = Kube(found)
    eventually(lambda: kube.request("GET", "/version"), what="the API server does not answer")
    return kube


@pytest.fixture(scope="session")
def bundles(kube: Kube) -> dict[str, Bundle]:
    """Small bundles that the cluster has as images, by name."""
    return load_bundles(kube)


@pytest.fixture(scope="session")
def seed_bundles(kube: Kube) -> dict[str, Bundle]:
    """The seed file's models with random weights."""
    return load_seed_bundles(kube)


@pytest.fixture(scope="session")
def release(
    kube: Kube, seed_bundles: dict[str, Bundle], figures: Callable[[str], None]
) -> Iterator[Release]:
    """The installed operator; DEEPSEEK_E2E_KEEP=1 leaves it there for the next run at a desk."""
    started = time.monotonic()
    load_project_images(kube)
    loaded = time.monotonic()
    catalog = {name: {"source": bundle.source} for name, bundle in seed_bundles.items()}
    release = Release(kube, catalog=catalog)
    if other := release.others():
        pytest.fail(f"Another operator runs in this cluster; stop it first: {other}")
    keep = os.environ.get("DEEPSEEK_E2E_KEEP") == "1"
    if not keep:
        release.remove()
    try:
        release.install()
        figures(f"project images loaded: {loaded - started:.1f} s")
        figures(f"chart installed: {time.monotonic() - loaded:.1f} s")
        yield release
    finally:
        if not keep:
            release.remove()


@pytest.fixture(scope="session")
def crd(kube: Kube) -> Iterator[None]:
    """The definition of ModelPipelines, from the chart or alone."""
    name = "modelpipelines.deepseek.ai"
    if kube.get("CustomResourceDefinition", name):
        yield
        return
    kube.kubectl(
        "apply", "--server-side", "-f", str(ROOT / "crds" / "deepseek.ai_modelpipelines.yaml")
    )
    kube.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    yield
    kube.delete("CustomResourceDefinition", name)


@pytest.fixture(scope="module")
def bare_space(kube: Kube, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of this module that holds its pods to the restricted standard; no operator."""
    name = "e2e-" + request.path.stem.removeprefix("test_").replace("_", "-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "deepseek.ai/e2e": "true"}
    eventually(lambda: kube.get("Namespace", name) is None or _forget(kube, name), timeout_s=120)
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    )
    space = Space(kube, name)
    eventually(lambda: space.get("ServiceAccount", "default"), what="no default ServiceAccount")
    try:
        yield space
    finally:
        kube.delete("Namespace", name)


@pytest.fixture(scope="module")
def space(bare_space: Space, release: Release) -> Iterator[Space]:
    """A namespace with an operator that looks after it; its pipelines are removed at the end."""
    yield bare_space
    bare_space.remove_pipelines()


@pytest.fixture
def pipeline(space: Space, bundles: dict[str, Bundle]) -> Iterator[Callable[..., Wire]]:
    """Apply a pipeline; ``models`` give fields by name, ``bundle`` among them; removed later."""
    made: set[str] = set()

    def make(name: str, models: dict[str, dict[str, Any]], **spec: Any) -> Wire:
        made.add(name)
        return space.apply(manifest(name, models, bundles, **spec))

    yield make
    for name in made:
        space.delete("ModelPipeline", name)
    for name in made:
        _until_gone(space, name)


def _until_gone(space: Space, name: str) -> None:
    eventually(lambda: not space.pods(name), timeout_s=90, what=f"the pods of {name} stay")


def manifest(
    name: str, models: dict[str, dict[str, Any]], bundles: dict[str, Bundle], **spec: Any
) -> Wire:
    """A ModelPipeline; a model without a source gets the bundle ``bundle`` (default: echo)."""
    entries = []
    for model, fields in models.items():
        own = {"name": model, "type": "NLP"} | fields
        bundle = bundles[own.pop("bundle", "echo")]
        entries.append({"source": bundle.source} | own)
    return {
        "apiVersion": "deepseek.ai/v1alpha1",
        "kind": "ModelPipeline",
        "metadata": {"name": name},
        "spec": {"models": entries} | spec,
    }


@pytest.fixture
def gpus(kube: Kube) -> Iterator[Callable[[int], None]]:
    """Pretend that the node has GPUs; they are gone afterwards."""
    node = kube.items("Node")[0]["metadata"]["name"]

    def pretend(count: int) -> None:
        amount = {"nvidia.com/gpu": str(count)}
        patch = {"status": {"capacity": amount, "allocatable": amount}}
        kube.merge("Node", node, patch, sub="status")

    yield pretend
    gone = {"nvidia.com/gpu": None}
    kube.merge("Node", node, {"status": {"capacity": gone, "allocatable": gone}}, sub="status")


def _forget(kube: Kube, name: str) -> bool:
    for item in kube.items("ModelPipeline", name):
        kube.delete("ModelPipeline", item["metadata"]["name"], name)
    kube.delete("Namespace", name)
    return False


@pytest.fixture(scope="session")
def seed_file() -> Wire:
    """``examples/nlp-vision-joint.yaml``."""
    path = HERE.parents[1] / "examples" / "nlp-vision-joint.yaml"
    found: Wire = yaml.safe_load(path.read_text())
    return found
