"""The chart's files, and what Helm makes of them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cluster.binaries import tool_dir
from deploy.cluster.versions import TOOLS

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "deepseek-operator"
HELM_VARIABLE = "DEEPSEEK_TEST_HELM"

Manifest = dict[str, Any]


def chart_file(name: str) -> Any:
    """A YAML or JSON file of the chart."""
    return yaml.safe_load((CHART / name).read_text("utf-8"))


def find_helm() -> str | None:
    """Path of Helm: the one that a variable names, of the search path or of the local cluster."""
    named = os.environ.get(HELM_VARIABLE) or shutil.which("helm")
    built = tool_dir(TOOLS["helm"]) / "helm"
    return named or (str(built) if built.is_file() else None)


needs_helm = pytest.mark.skipif(
    find_helm() is None,
    reason=f"Helm is not on PATH, not built for the local cluster and not named by {HELM_VARIABLE}",
)


def helm(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Helm without the settings of the user who runs the tests."""
    folders = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [find_helm() or "helm", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | folders | {"KUBECONFIG": os.devnull},
    )


class Chart:
    """The chart as one test installs it."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def template(
        self, values: Mapping[str, Any] | None = None, *arguments: str, release: str = "deepseek"
    ) -> subprocess.CompletedProcess[str]:
        """``helm template`` in the namespace ``deepseek-system`` with these values."""
        path = self._home / "values.json"
        path.write_text(json.dumps(values or {}), "utf-8")
        command = ("template", release, str(CHART), "--namespace", "deepseek-system")
        return helm(*command, "--values", str(path), *arguments, home=self._home)

    def render(
        self, values: Mapping[str, Any] | None = None, *arguments: str, release: str = "deepseek"
    ) -> list[Manifest]:
        """The objects that are installed."""
        done = self.template(values, *arguments, release=release)
        assert done.returncode == 0, done.stderr
        return [item for item in yaml.safe_load_all(done.stdout) if item]

    def refusal(self, values: Mapping[str, Any]) -> str:
        """What Helm says about values that it refuses."""
        done = self.template(values)
        assert done.returncode != 0, "the values were accepted"
        return done.stderr


@functools.cache
def default_values() -> Manifest:
    """The chart's values.yaml."""
    values: Manifest = chart_file("values.yaml")
    return values


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    """Objects of one kind."""
    return [item for item in objects if item["kind"] == kind]


def only(objects: list[Manifest], kind: str) -> Manifest:
    """The one object of a kind."""
    (item,) = of_kind(objects, kind)
    return item


def pairs(rules: list[Manifest]) -> Iterator[tuple[tuple[str, str], set[str]]]:
    """Verbs of a role's rules by group and resource."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield (group, resource), set(rule["verbs"])
