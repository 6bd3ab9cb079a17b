"""As whom does a process of a local box run?"""

from __future__ import annotations

import os
import pwd
from functools import lru_cache

import attrs

from boxflow.errors import NotSupportedError

# What most machines give to their first person. Root's boxes run as it, in their own eyes.
_FIRST_PERSON = 1000


@attrs.frozen(kw_only=True)
class BoxUser:
    """A user as the box sees it."""

    name: str
    uid: int
    gid: int


def current_user() -> BoxUser:
    """Who runs this program."""
    return BoxUser(name=_name_of(os.getuid()), uid=os.getuid(), gid=os.getgid())


def isolated_user() -> BoxUser:
    """Who it is in an isolated box: the same, but never root, whom programs trust and some refuse to work as."""
    user = current_user()
    if user.uid != 0:
        return user
    return BoxUser(name="box", uid=_FIRST_PERSON, gid=_FIRST_PERSON)


@lru_cache(maxsize=16)
def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        # Containers often run under an id that no account has.
        return str(uid)


def check_user(asked: str | None, user: BoxUser) -> None:
    """:raises NotSupportedError: *asked* is somebody else."""
    if asked is not None and asked not in (user.name, str(user.uid)):
        raise NotSupportedError(
            f"a local box runs everything as {user.name!r}, and cannot as user={asked!r}; "
            "leave it out, or use 'docker:'"
        )
