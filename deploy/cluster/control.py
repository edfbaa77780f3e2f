"""Stop, start and kill single components of the running cluster, for tests of what then happens.

Why it exists: "the API server is away for a minute" has to be said in one line and undone for
sure. Everything goes through files that the supervisor reads, so a test needs no connection to it.
Not for clusters of kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deepseek_api.errors import ConfigurationError, DeepseekError

from deploy.cluster import processes
from deploy.cluster.components import Component, dump_components, read_components
from deploy.cluster.layout import Layout
from deploy.cluster.processes import is_member, read_number, wait_for

__all__ = ["component_names", "kill", "paused", "pid_of", "set_flags", "start", "stop"]

_TIMEOUT_S = 30.0


def component_names(layout: Layout | None = None) -> list[str]:
    """The components of the running cluster, in the order in which they start."""
    return [component.name for component in _read(layout or Layout.default())]


def pid_of(name: str, layout: Layout | None = None) -> int | None:
    """The process id of a component, or None while it does not run.

    Raises:
        ConfigurationError: there is no such component.
    """
    place = _known(name, layout)
    pid = read_number(place.pid_file(name))
    return pid if pid is not None and is_member(pid, place.home) else None


def stop(name: str, layout: Layout | None = None) -> None:
    """Kill a component and keep it down until `start`.

    Raises:
        ConfigurationError: there is no such component.
        DeepseekError: it does not go down.
    """
    place = _known(name, layout)
    place.pause_file(name).touch()

    def running() -> list[int]:
        pid = pid_of(name, place)
        return [] if pid is None else [pid]

    if processes.end_all(running, timeout_s=_TIMEOUT_S):
        raise DeepseekError(f"{name} does not go down.", reason="ComponentStuck")


def start(name: str, layout: Layout | None = None) -> None:
    """Let a stopped component run again; returns when its process exists.

    Raises:
        ConfigurationError: there is no such component.
        DeepseekError: it does not start.
    """
    place = _known(name, layout)
    place.pause_file(name).unlink(missing_ok=True)
    _wait_running(name, place, but=None)


def kill(name: str, layout: Layout | None = None) -> None:
    """Kill a component once; returns when the supervisor has started it again.

    Raises:
        ConfigurationError: there is no such component, or it does not run.
        DeepseekError: it does not come back.
    """
    place = _known(name, layout)
    pid = pid_of(name, place)
    if pid is None:
        raise ConfigurationError(f"{name} does not run.", hint="Start it first.")
    processes.kill(pid)
    _wait_running(name, place, but=pid)


@contextmanager
def paused(name: str, layout: Layout | None = None) -> Iterator[None]:
    """A component is down inside the block, and runs again afterwards."""
    stop(name, layout)
    try:
        yield
    finally:
        start(name, layout)


def set_flags(name: str, flags: dict[str, str], layout: Layout | None = None) -> None:
    """Give a component other flags and restart it when that changes something.

    Args:
        name: the component.
        flags: values by flag, without dashes in front; flags it has are replaced.
        layout: the cluster.

    Raises:
        ConfigurationError: there is no such component.
        DeepseekError: it does not come back.
    """
    place = _known(name, layout)
    components = _read(place)
    changed = [_with_flags(c, flags) if c.name == name else c for c in components]
    if changed == components:
        return
    pid = pid_of(name, place)
    scratch = place.components_file.with_suffix(".new")
    scratch.write_text(dump_components(changed))
    scratch.rename(place.components_file)
    if not place.pause_file(name).exists():
        _wait_running(name, place, but=pid)


def _with_flags(component: Component, flags: dict[str, str]) -> Component:
    doomed = tuple(f"--{flag}=" for flag in flags)
    kept = [part for part in component.command if not part.startswith(doomed)]
    added = [f"--{flag}={value}" for flag, value in flags.items()]
    same = set(kept + added) == set(component.command)
    return component if same else Component(component.name, (*kept, *added))


def _wait_running(name: str, place: Layout, *, but: int | None) -> None:
    if not wait_for(lambda: pid_of(name, place) not in (None, but), timeout_s=_TIMEOUT_S):
        raise DeepseekError(
            f"{name} does not start.", hint=f"See {place.log_file(name)}.", reason="ComponentStuck"
        )


def _read(place: Layout) -> list[Component]:
    try:
        return read_components(place.components_file.read_text())
    except FileNotFoundError:
        raise ConfigurationError(
            "No cluster of this project runs on this machine.", hint="Run 'make cluster'."
        ) from None


def _known(name: str, layout: Layout | None) -> Layout:
    place = layout or Layout.default()
    names = [component.name for component in _read(place)]
    if name not in names:
        raise ConfigurationError(f"There is no component '{name}'.", hint=f"Known: {names}.")
    return place
