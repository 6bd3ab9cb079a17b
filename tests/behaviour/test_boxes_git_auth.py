"""What git proves itself with reaches the server, and nothing else: no URL, no file of the box, no error."""

from __future__ import annotations

import base64
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from boxflow import Boxes, GitAuth
from boxflow.errors import CommandFailedError, ConfigurationError
from boxflow_backends.local_sandbox import LocalSandbox

TOKEN = "s3cret-t0ken"


@contextmanager
def git_server(root: Path, wanted: str) -> Iterator[str]:
    """A real git over HTTP, which asks for an `Authorization` header: `git http-backend` behind a small server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            environment = {
                "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "REMOTE_USER": "somebody",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "PATH": "/usr/bin:/bin:/usr/local/bin",
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
                "HOME": str(root),
            }  # fmt: skip
            answer = subprocess.run(
                ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
            )
            head, _, content = answer.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def repository(root: Path) -> None:
    script = (
        "git init -q --bare -b main $1/it.git && git -C $1/it.git config http.receivepack true && "
        "git clone -q $1/it.git $1/work 2>/dev/null && cd $1/work && git checkout -q -b main && echo one > f && "
        "git add f && git -c user.name=a -c user.email=a@b commit -qm first && git push -q origin main"
    )
    subprocess.run(["sh", "-c", script, "sh", str(root)], check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(root)})
    shutil.rmtree(root / "work")


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_a_token_clones_and_pushes_and_stays_nowhere(tmp_path: Path, scheme: str) -> None:
    root = tmp_path / "server"
    root.mkdir()
    repository(root)
    basic = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    wanted = f"Basic {basic}" if scheme == "basic" else f"Bearer {TOKEN}"
    with git_server(root, wanted) as url:
        async with Boxes(LocalSandbox(tmp_path / "boxes")) as boxes, boxes.create("git") as box:
            auth = GitAuth(token=TOKEN, scheme=scheme, host=url)
            with pytest.raises(CommandFailedError) as refused:
                await box.git.clone(f"{url}/it.git")
            await box.git.clone(f"{url}/it.git", auth=auth, branch="main", depth=1)
            await box.files.write("f", "two\n")
            await box.git.commit("second", author="A <a@b>")
            await box.git.push(auth=auth)
            with pytest.raises(CommandFailedError):
                await box.git.push()
            assert (await box.git.exec("fetch", auth=auth)).ok
        log = subprocess.run(
            ["git", "-C", str(root / "it.git"), "-c", "safe.directory=*", "log", "--format=%s", "main"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert log.stdout == "second\nfirst\n"
        assert TOKEN not in repr(auth) + str(refused.value)


async def test_no_file_of_the_box_holds_the_token_while_it_lives(tmp_path: Path) -> None:
    root = tmp_path / "server"
    root.mkdir()
    repository(root)
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with git_server(root, f"Basic {basic}") as url:
        async with Boxes(LocalSandbox(tmp_path / "boxes")) as boxes, boxes.create("git") as box:
            await box.git.clone(f"{url}/it.git", auth=GitAuth(token=TOKEN, username="me"))
            for path in (tmp_path / "boxes").rglob("*"):
                if path.is_file():
                    data = path.read_bytes()
                    assert TOKEN.encode() not in data and basic.encode() not in data, path


async def test_credentials_in_a_url_are_refused(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create("git") as box:
        for url in (f"https://user:{TOKEN}@example.org/it.git", f"https://{TOKEN}@example.org/it.git"):
            for asked in (box.git.clone(url), box.git.push(url)):
                with pytest.raises(ValueError, match="pass auth=GitAuth") as refused:
                    await asked
                assert TOKEN not in str(refused.value)


def test_what_no_header_can_hold_is_refused() -> None:
    for auth in (GitAuth(token="a\nb"), GitAuth(token="a", scheme="digest")):
        with pytest.raises(ConfigurationError):
            auth.environment()
