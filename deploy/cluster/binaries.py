"""Build the pinned tools from their Go modules, once, into the user's cache.

Why it exists: a control plane can be had on any machine with a Go compiler, at exactly the versions
that are committed. ``binary("helm")`` gives the path of a program and builds its tool when it is
absent. Nothing is started here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deepseek_api.errors import ConfigurationError, DeepseekError

from deploy.cluster.layout import cache_dir
from deploy.cluster.versions import TOOLS, Tool

__all__ = ["CLUSTER_TOOLS", "binary", "build", "go_environment", "is_built", "tool_dir"]

CLUSTER_TOOLS = ("kubernetes", "etcd", "containerd", "coredns", "metrics-server")
"""What a running cluster needs; the others are built when something asks for them."""

_STAMP = "built.json"

Say = Callable[[str], None]


def tool_dir(tool: Tool) -> Path:
    """The folder of a tool's binaries, named after its version."""
    return cache_dir() / "bin" / f"{tool.name}-{tool.version}"


def binary(name: str) -> Path:
    """The path of a program, for example ``kubectl``; its tool is built when it is absent.

    Raises:
        ConfigurationError: no tool has a program of that name, or Go is missing.
        DeepseekError: the build failed.
    """
    for tool in TOOLS.values():
        if name in tool.packages:
            build([tool.name])
            return tool_dir(tool) / name
    known = ", ".join(sorted(name for tool in TOOLS.values() for name in tool.packages))
    raise ConfigurationError(f"There is no program named '{name}'.", hint=f"Known: {known}.")


def build(names: Iterable[str], *, say: Say | None = None) -> None:
    """Build the named tools that are not in the cache, one after the other.

    Args:
        names: names of ``TOOLS``.
        say: receives one line for each tool that is built.

    Raises:
        ConfigurationError: a name is unknown, or Go is missing.
        DeepseekError: a build failed; the message ends with Go's last lines.
    """
    for name in names:
        if name not in TOOLS:
            raise ConfigurationError(
                f"There is no tool named '{name}'.", hint=f"Known: {', '.join(TOOLS)}."
            )
        tool = TOOLS[name]
        if not is_built(name):
            _build(tool, say or _quiet)


def go_environment() -> dict[str, str]:
    """The environment for Go: static binaries from exactly the committed modules."""
    return os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _quiet(_line: str) -> None:
    pass


def _fingerprint(tool: Tool) -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((tool.folder / name).read_bytes())
    digest.update(json.dumps([tool.packages, tool.linker_flags(), tool.tags]).encode())
    return digest.hexdigest()


def is_built(name: str) -> bool:
    """Whether the tool is in the cache, built from what is committed now."""
    tool = TOOLS[name]
    try:
        stamp = json.loads((tool_dir(tool) / _STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp.get("fingerprint") == _fingerprint(tool))


def _build(tool: Tool, say: Say) -> None:
    if shutil.which("go") is None:
        raise ConfigurationError(
            f"Go is needed to build {tool.name}, and there is no 'go' in PATH.",
            hint="Install Go 1.26 or newer (https://go.dev/doc/install).",
        )
    say(f"Building {tool.name} {tool.version}: {', '.join(tool.packages)} ...")
    started, target = time.monotonic(), tool_dir(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    scratch.chmod(0o755)
    try:
        _go_build(tool, scratch)
        seconds = round(time.monotonic() - started, 1)
        stamp = {"fingerprint": _fingerprint(tool), "seconds": seconds}
        (scratch / _STAMP).write_text(json.dumps(stamp))
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(f"Built {tool.name} {tool.version} in {seconds} s")


def _go_build(tool: Tool, folder: Path) -> None:
    # One command for all packages lets Go use every core; a single one is named as it should be.
    output = (
        str(folder) + "/" if len(tool.packages) > 1 else str(folder / next(iter(tool.packages)))
    )
    command = ["go", "build", "-trimpath", "-ldflags", tool.linker_flags(), "-o", output]
    if tool.tags:
        command += ["-tags", ",".join(tool.tags)]
    done = subprocess.run(
        [*command, *tool.packages.values()],
        check=False,
        cwd=tool.folder,
        env=go_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise DeepseekError(
            f"Building {tool.name} failed:\n{tail}",
            hint="Modules are fetched through GOPROXY; check 'go env GOPROXY' and the network.",
            reason="BuildFailed",
        )
