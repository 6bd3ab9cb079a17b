"""How does git prove who it is, such that nothing of it stays in the box?"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from boxflow.errors import ConfigurationError


@attrs.frozen(kw_only=True)
class GitAuth:
    """Who git is to a server, over HTTPS: `box.git.clone(url, auth=GitAuth(token=...))`.

    It travels in the environment of that one git process, as a header that git sends to *host* alone (git-config(1),
    `http.<url>.extraHeader` and `GIT_CONFIG_COUNT`): in no URL, no argument, no file of the box. While git runs,
    another process of the same box and user can read it; where the box must never have it, give the box a network
    allow-list with `headers` instead.

    :param token: a password or an access token
    :param username: most servers take any with a token
    :param host: `"https://github.com"`; every server that git talks to when None, so give it where submodules or
        redirects may lead elsewhere
    :param scheme: `"basic"`, or `"bearer"` where the server wants the token as it is
    """

    token: str = attrs.field(repr=False)
    username: str = "x-access-token"
    host: str | None = None
    scheme: str = "basic"

    def environment(self) -> Mapping[str, str]:
        """The variables that tell git.

        :raises ConfigurationError: another *scheme*, or a token that no header can hold
        """
        if any(ord(letter) < 32 for letter in self.token + self.username):
            raise ConfigurationError("a token or username for git holds control characters; no header can hold those")
        match self.scheme:
            case "basic":
                value = "Basic " + base64.b64encode(f"{self.username}:{self.token}".encode()).decode()
            case "bearer":
                value = f"Bearer {self.token}"
            case _:
                raise ConfigurationError(f"scheme={self.scheme!r} must be 'basic' or 'bearer'")
        key = "http.extraHeader" if self.host is None else f"http.{self.host.rstrip('/')}/.extraHeader"
        return {
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": key,
            "GIT_CONFIG_VALUE_0": f"Authorization: {value}",
            # No helper of the image keeps what the server was told.
            "GIT_CONFIG_KEY_1": "credential.helper",
            "GIT_CONFIG_VALUE_1": "",
        }


def refuse_credentials(url: str) -> None:
    """:raises ValueError: *url* holds a password, which git would keep in the box's files."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    if parts.scheme in ("http", "https") and (parts.password or parts.username):
        raise ValueError(
            f"the URL of {parts.hostname!r} holds credentials, which git would keep in the box; "
            "leave them out and pass auth=GitAuth(token=...)"
        )
