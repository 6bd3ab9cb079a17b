"""A sandbox for each test of Docker boxes, on an engine that others use too; and a look at what it leaves behind."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import docker
import pytest
from docker_image import engine_answers, tools_image

from boxflow_backends.docker_sandbox import DockerSandbox


@pytest.fixture(scope="session")
def engine_is_there() -> bool:
    return engine_answers()


@pytest.fixture
def engine(need: Callable[[str, bool], None], engine_is_there: bool) -> Iterator[docker.APIClient]:
    """Docker itself, to look at what we have made."""
    need("docker", engine_is_there)
    client = docker.APIClient(**docker.utils.kwargs_from_env(), version="auto")
    yield client
    client.close()


@pytest.fixture
def namespace(engine: docker.APIClient) -> Iterator[str]:
    """A name for the boxes of one test, of which none is left in the end."""
    name = f"test-{secrets.token_hex(6)}"
    yield name
    label = {"label": f"boxflow.docker.namespace={name}"}
    containers, images = engine.containers(all=True, filters=label), engine.images(filters=label)
    for one in containers:
        engine.remove_container(one["Id"], force=True, v=True)
    for one in images:
        engine.remove_image(one["Id"], force=True)
    assert [one["Names"] for one in containers] == []
    assert [one["RepoTags"] for one in images] == []


@pytest.fixture
def sandbox(namespace: str) -> DockerSandbox:
    """Not yet entered."""
    return DockerSandbox(tools_image(), namespace=namespace)
