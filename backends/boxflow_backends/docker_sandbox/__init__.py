"""Boxes as containers of a Docker engine: hardened by default, found again by their labels."""

from boxflow_backends.docker_sandbox.sandbox import DockerSandbox

__all__ = ["DockerSandbox"]
