"""The real one-node cluster: start it, look at it, take it away.

Why it exists: it puts the parts in order. Each part knows its own business: ``prerequisites``,
``binaries``, ``certificates``, ``config``, ``components``, ``supervisor``, ``host``, ``teardown``.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek_api.errors import DeepseekError

from deploy.cluster import config, host, manifests
from deploy.cluster.binaries import CLUSTER_TOOLS, build, is_built, tool_dir
from deploy.cluster.certificates import IDENTITIES, make_certificates
from deploy.cluster.components import (
    ClusterOptions,
    Component,
    cluster_components,
    dump_components,
    option_flags,
)
from deploy.cluster.control import pid_of, set_flags
from deploy.cluster.images import import_archive, pause_archive
from deploy.cluster.layout import NETWORK, PORTS, Layout, cache_dir
from deploy.cluster.prerequisites import check_machine, check_place, check_root, cni_plugins
from deploy.cluster.processes import is_member, read_number, wait_for
from deploy.cluster.supervisor import start_supervisor
from deploy.cluster.teardown import leftovers, teardown
from deploy.cluster.versions import TOOLS

__all__ = ["down", "is_running", "status", "up"]

_READY_S = 90.0
_ENDS = 6
_LOG_LINES = 15

Say = Callable[[str], None]


def up(layout: Layout, options: ClusterOptions, *, say: Say) -> None:
    """Start the cluster and wait until it can be used; nothing to do when it runs.

    Raises:
        ConfigurationError: the machine lacks something.
        DeepseekError: a part did not become ready; everything was taken away again.
    """
    with _only_one():
        if is_running(layout):
            say("The cluster runs already.")
            if options != ClusterOptions():
                for name, flags in option_flags(options).items():
                    set_flags(name, flags, layout)
                say("Its controllers run with the given options.")
            return
        check_machine(building=not all(is_built(name) for name in CLUSTER_TOOLS))
        if leftovers(layout):
            say("Removing what an earlier cluster left behind.")
            teardown(layout)
        check_place()
        build(CLUSTER_TOOLS, say=say)
        started = time.monotonic()
        try:
            _start(layout, options, say)
        except BaseException:
            _keep_logs(layout)
            teardown(layout)
            raise
        say(f"The cluster is ready after {time.monotonic() - started:.0f} s.")


def down(layout: Layout, *, say: Say) -> None:
    """Take the cluster away, however little of it is left.

    Raises:
        DeepseekError: something could not be removed.
    """
    with _only_one():
        if not leftovers(layout):
            say("There is no cluster on this machine.")
            return
        check_root()
        teardown(layout)
        say("The cluster is gone; built binaries stay in the cache.")


def is_running(layout: Layout) -> bool:
    """Whether the supervisor lives and has its complete list."""
    pid = read_number(layout.supervisor_pid)
    return pid is not None and is_member(pid, layout.home) and layout.kubeconfig.exists()


def status(layout: Layout) -> dict[str, int | None]:
    """Process ids by component; None where a component is down; empty without a cluster."""
    if not is_running(layout):
        return {}
    names = [entry["name"] for entry in json.loads(layout.components_file.read_text())]
    return {name: pid_of(name, layout) for name in names}


def _start(layout: Layout, options: ClusterOptions, say: Say) -> None:
    host.take_note(layout)
    for folder in (layout.run, layout.logs, layout.conf, layout.cni_conf, layout.data):
        folder.mkdir(parents=True, exist_ok=True)
    host.set_kernel()
    host.create_bridge()
    host.create_cgroups()
    make_certificates(layout.pki)
    _write_configuration(layout)
    components = cluster_components(layout, _programs(), options)
    names = [component.name for component in components]
    _want(layout, components[:2])
    start_supervisor(layout)
    _wait(layout, "containerd", lambda: layout.socket.exists() and _imported(layout))
    say("containerd is ready")
    _want(layout, components[:3])
    admin = layout.conf / "admin.kubeconfig"
    _wait(layout, "kube-apiserver", lambda: _kubectl(admin, "get", "--raw", "/readyz") == "ok")
    say("kube-apiserver is ready")
    objects = manifests.on_this_machine((layout.pki / "ca.crt").read_bytes())
    _wait(layout, "kube-apiserver", lambda: _apply(admin, objects))
    _want(layout, components)
    _wait(layout, "kubelet", lambda: _node_ready(admin))
    say(f"node {NETWORK.node_name} is ready")
    _wait(layout, "kube-controller-manager", lambda: _exists(admin, "serviceaccount/default"))
    _wait(layout, "kube-proxy", lambda: _answers("kube-proxy (health)", "/healthz"))
    _wait(layout, "coredns", lambda: _answers("coredns (ready)", "/ready"))
    _wait(layout, "metrics-server", lambda: _metrics_ready(admin))
    say(f"{len(names)} components run")
    _write_private(layout.kubeconfig, config.kubeconfig(layout, "admin", embed=True))


def _write_configuration(layout: Layout) -> None:
    plugins = cni_plugins()
    assert plugins is not None
    resolv_conf = Path("/etc/resolv.conf")
    has_servers = resolv_conf.exists() and config.nameservers(resolv_conf.read_text())
    files = {
        layout.conf / "containerd.toml": config.containerd_config(layout, plugins),
        layout.cni_conf / "10-deepseek.conflist": config.cni_network(layout),
        layout.conf / "kubelet.yaml": config.kubelet_config(layout),
        layout.conf / "kube-proxy.yaml": config.kube_proxy_config(layout),
        layout.conf / "Corefile": config.corefile(
            layout, resolv_conf=resolv_conf if has_servers else None
        ),
    }
    for path, text in files.items():
        path.write_text(text)
    for identity in IDENTITIES:
        path = layout.conf / f"{identity.name}.kubeconfig"
        _write_private(path, config.kubeconfig(layout, identity.name))


def _programs() -> dict[str, Path]:
    tools = [TOOLS[name] for name in CLUSTER_TOOLS]
    return {name: tool_dir(tool) / name for tool in tools for name in tool.packages}


def _want(layout: Layout, components: Sequence[Component]) -> None:
    scratch = layout.components_file.with_suffix(".new")
    scratch.write_text(dump_components(components))
    scratch.rename(layout.components_file)


def _wait(layout: Layout, component: str, condition: Callable[[], bool]) -> None:
    """Wait for a part of the cluster; give up early on a component that ends again and again."""
    ready = False

    def decided() -> bool:
        nonlocal ready
        ready = condition()
        return ready or (read_number(layout.ends_file(component)) or 0) >= _ENDS

    in_time = wait_for(decided, timeout_s=_READY_S)
    if ready:
        return
    why = "ended again and again" if in_time else f"was not ready within {_READY_S:.0f} s"
    raise DeepseekError(
        f"{component} {why}. Its log ends with:\n{_last_lines(layout.log_file(component))}",
        hint="The cluster was taken away again; all logs are in "
        f"{cache_dir() / 'logs-of-last-failure'}.",
        reason="ComponentNotReady",
    )


def _last_lines(log: Path) -> str:
    if not log.exists():
        return "(it never started)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    program = tool_dir(TOOLS["kubernetes"]) / "kubectl"
    done = subprocess.run(
        [str(program), f"--kubeconfig={kubeconfig}", "--request-timeout=5s", *arguments],
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _apply(kubeconfig: Path, objects: Sequence[dict[str, Any]]) -> bool:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return bool(_kubectl(kubeconfig, "apply", "--server-side", "-f", "-", stdin=text))


def _exists(kubeconfig: Path, what: str) -> bool:
    return bool(_kubectl(kubeconfig, "get", what, "-o", "name"))


def _condition(kubeconfig: Path, what: str, kind: str) -> bool:
    path = f'jsonpath={{.status.conditions[?(@.type=="{kind}")].status}}'
    return _kubectl(kubeconfig, "get", what, "-o", path) == "True"


def _node_ready(kubeconfig: Path) -> bool:
    return _condition(kubeconfig, f"node/{NETWORK.node_name}", "Ready")


def _metrics_ready(kubeconfig: Path) -> bool:
    return _condition(kubeconfig, "apiservice/v1beta1.metrics.k8s.io", "Available")


def _imported(layout: Layout) -> bool:
    try:
        return bool(import_archive(layout, pause_archive()))
    except DeepseekError:
        return False


def _answers(port: str, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", PORTS[port], timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _keep_logs(layout: Layout) -> None:
    kept = cache_dir() / "logs-of-last-failure"
    shutil.rmtree(kept, ignore_errors=True)
    if layout.logs.exists():
        shutil.copytree(layout.logs, kept, ignore_dangling_symlinks=True)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


@contextmanager
def _only_one() -> Iterator[None]:
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
