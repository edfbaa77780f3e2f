"""Building images: which program, which base, and when a build can be skipped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.images import __main__ as images
from deploy.images.__main__ import INPUTS, ROOT, inputs_hash, local_name
from deploy.images.base import DEFAULT_BASE, LOCAL_BASE, base_image
from deploy.images.tools import Builder, ImageToolError, find_builder


def program(folder: Path, name: str, script: str) -> Path:
    """An executable in ``folder`` that writes its arguments down."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$0 $*" >> {folder}/calls\n{script}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the search path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_docker_client_without_a_daemon_does_not_count(tools: Path) -> None:
    program(tools, "docker", "exit 1")
    program(tools, "buildah", "exit 0")
    assert find_builder() == Builder("buildah")


def test_docker_with_a_daemon_comes_first(tools: Path) -> None:
    program(tools, "docker", "exit 0")
    program(tools, "podman", "exit 0")
    assert find_builder() == Builder("docker")


def test_a_machine_without_any_program_is_told_what_to_install(tools: Path) -> None:
    with pytest.raises(ImageToolError, match="install podman or buildah"):
        find_builder()


@pytest.mark.parametrize(
    "said",
    [
        [{"Config": {"Labels": {"inputs": "x"}}}],
        {"Config": "text", "OCIv1": {"config": {"Labels": {"inputs": "x"}}}},
    ],
    ids=["docker and podman", "buildah"],
)
def test_labels_are_read_from_every_program(tools: Path, said: object) -> None:
    program(tools, "any", f"echo '{json.dumps(said)}'")
    builder = Builder(str(tools / "any"))
    assert builder.label("image", "inputs") == "x"
    assert builder.label("image", "other") is None


def test_a_failed_build_names_the_command(tools: Path) -> None:
    program(tools, "podman", "exit 3")
    with pytest.raises(ImageToolError, match=r"podman build .*failed|This command failed: podman"):
        Builder("podman").build(file=Path("f"), tag="t", arguments={"BASE": "b"}, labels={})


def test_buildah_sees_the_network_of_the_host(tools: Path) -> None:
    program(tools, "buildah", "exit 0")
    Builder("buildah").build(file=Path("f"), tag="t", arguments={"BASE": "b"}, labels={"l": "v"})
    called = (tools / "calls").read_text()
    assert "bud --network=host --isolation=chroot" in called
    assert "--build-arg BASE=b --label l=v -f f -t t ." in called


def test_another_base_or_another_image_is_another_build() -> None:
    hashes = {inputs_hash("worker-cpu", "a"), inputs_hash("worker-cpu", "b")}
    assert len(hashes | {inputs_hash("operator", "a")}) == 3
    assert inputs_hash("operator", "a") == inputs_hash("operator", "a")


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_input_of_an_image_is_copied_into_it(name: str) -> None:
    text = (ROOT / "deploy" / "images" / f"{name}.Containerfile").read_text()
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for entry in INPUTS[name]:
        assert (ROOT / entry).exists()
        assert f"COPY {entry} " in text
        assert entry in let_in or f"{Path(entry).parent}/*{Path(entry).suffix}" in let_in


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_what_installing_sees_of_this_machine_never_reaches_an_image(name: str) -> None:
    text = (ROOT / "deploy" / "images" / f"{name}.Containerfile").read_text()
    build, final = text.split("\nFROM ")[1:]
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in build
    assert "--mount" not in final


@pytest.mark.parametrize(
    ("has", "base"),
    [({LOCAL_BASE}, LOCAL_BASE), ({DEFAULT_BASE}, DEFAULT_BASE), (set(), DEFAULT_BASE)],
    ids=["made here before", "pulled before", "a registry answers"],
)
def test_a_base_that_can_be_had_is_not_made(tools: Path, has: set[str], base: str) -> None:
    known = "|".join(has) or "none"
    script = (
        f'[ $1 = pull ] && exit 0; case "$4" in {known}) echo \'{{"Id": "x"}}\';; *) exit 1;; esac'
    )
    program(tools, "podman", script)
    assert base_image(Builder("podman")) == base


def test_docker_gets_the_official_base_or_the_one_that_is_named(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_image(Builder("docker")) == DEFAULT_BASE
    monkeypatch.setenv("BASE", "registry.example/python:3.12")
    assert base_image(Builder("docker")) == "registry.example/python:3.12"


def test_where_no_base_can_be_had_the_person_is_told(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tools, "buildah", "exit 1")
    with pytest.raises(ImageToolError, match=r"needs root and debootstrap .*name a base in BASE="):
        base_image(Builder("buildah"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("buildah", r"buildah push --quiet t oci-archive:\S+a\.partial:t"),
        ("podman", r"podman save --quiet --format=oci-archive -o \S+a\.partial t"),
        ("docker", r"docker save -o \S+a\.partial t"),
    ],
)
def test_an_archive_appears_when_it_is_complete(
    tools: Path, tmp_path: Path, name: str, command: str
) -> None:
    archive = tmp_path / "a.tar"
    program(tools, name, f"echo archive > {tmp_path}/a.partial")
    Builder(name).save("t", archive)
    assert re.search(command, (tools / "calls").read_text())
    assert archive.read_text() == "archive\n"


def test_images_are_pushed_under_the_name_of_the_registry(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tools, "buildah", "exit 0")
    monkeypatch.setenv("REGISTRY", "registry.example/team/")
    images.push(Builder("buildah"), ["operator"])
    (line,) = (tools / "calls").read_text().splitlines()
    here, there = line.split()[-2:]
    assert here == "localhost/deepseek/operator:0.1.0"
    assert there == "docker://registry.example/team/deepseek/operator:0.1.0"


def test_the_chart_asks_for_the_names_that_are_pushed() -> None:
    chart = ROOT / "charts" / "deepseek-operator"
    values = yaml.safe_load((chart / "values.yaml").read_text())
    tag = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    asked = {values["image"]["repository"], *values["images"].values(), values["torchImage"]}
    assert {f"r.example/{name}:{tag}" for name in asked} == {
        images.pushed_name(name, "r.example") for name in INPUTS
    }


def test_a_push_without_a_registry_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY", raising=False)
    with pytest.raises(ImageToolError, match="make images push REGISTRY="):
        images.push(Builder("buildah"), ["operator"])


def test_an_image_with_the_same_inputs_is_not_built_again(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE", "base")
    inputs = inputs_hash("operator", "base ")
    labels = f'{{"{images.INPUTS_LABEL}": "%s"}}'
    script = f'[ $4 = base ] && exit 1; echo \'{{"Config": {{"Labels": {labels}}}}}\''
    program(tools, "podman", script % inputs)
    images.build(Builder("podman"), ["operator"])
    assert "is up to date" in capsys.readouterr().out
    program(tools, "podman", script % "other")
    images.build(Builder("podman"), ["operator"])
    assert "podman build " in (tools / "calls").read_text()


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_no_image_runs_as_root(name: str) -> None:
    text = (ROOT / "deploy" / "images" / f"{name}.Containerfile").read_text()
    assert "\nUSER 65532:65532\n" in text
    assert text.rindex("USER ") > text.rindex("\nRUN ")


@pytest.mark.parametrize("name", ["operator", "cpu"])
def test_serving_and_operating_need_no_torch(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines}
    assert not names & {"torch", "transformers", "timm", "triton"}
    assert name != "operator" or not names & {"grpcio", "numpy"}


def test_images_are_tagged_with_the_version_of_the_project() -> None:
    assert local_name("operator") == "localhost/deepseek/operator:0.1.0"
