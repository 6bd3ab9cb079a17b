"""A host to connect to, a gate before it, and a box that speaks with the gate byte by byte."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from boxflow.ports import Egress
from boxflow_backends.egress_gate import EgressGate, Limits

QUICK = Limits(head_s=0.5, connect_s=1.0, keep_s=0.5, idle_s=0.5)


@attrs.frozen
class Certificates:
    """An authority, and the certificate that its servers show for every name under `test`."""

    ca: Path
    server: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


def make_certificates(directory: Path, names: Sequence[str]) -> Certificates:
    now = dt.datetime.now(dt.UTC)
    key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])

    def begin(public_key: ec.EllipticCurvePublicKey, subject: x509.Name, *, ca: bool) -> x509.CertificateBuilder:
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False)
        usage |= {"key_agreement": False, "encipher_only": False, "decipher_only": False}
        return (
            x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )

    ca = begin(key.public_key(), issuer, ca=True).sign(key, SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server of the tests")])
    leaf = (
        begin(leaf_key.public_key(), subject, ca=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    found = Certificates(directory / "ca.pem", directory / "server.pem")
    found.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    private = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found.server.write_bytes(private + leaf.public_bytes(Encoding.PEM))
    return found


@attrs.define
class Asked:
    """A request as the host saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int = 0
    body_sha: str = ""

    def header(self, name: str) -> list[str]:
        return [value for one, value in self.headers if one.lower() == name.lower()]


@attrs.define(eq=False)
class Host:
    """A web server whose paths are behaviours."""

    port: int = 0
    asked: list[Asked] = attrs.Factory(list)
    connections: int = 0
    gone: asyncio.Event = attrs.Factory(asyncio.Event)
    events: asyncio.Queue[str | None] = attrs.Factory(asyncio.Queue)
    extra: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        asked = Asked(method, target, [(line.partition(":")[0], line.partition(":")[2].strip()) for line in lines])
        self.asked.append(asked)
        if target == "/early":
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
            await writer.drain()
            while await reader.read(65536):
                pass
            return False
        sha = hashlib.sha256()
        async for chunk in self._body(asked, reader):
            asked.body_bytes += len(chunk)
            sha.update(chunk)
        asked.body_sha = sha.hexdigest()
        return await self._answer(asked, reader, writer)

    async def _body(self, asked: Asked, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        if asked.header("transfer-encoding"):
            while size := int(await reader.readline(), 16):
                yield await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            left = int((asked.header("content-length") or ["0"])[0])
            while left:
                chunk = await reader.read(min(left, 65536))
                if not chunk:
                    raise ConnectionResetError
                left -= len(chunk)
                yield chunk

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        def head(status: str, *lines: str) -> None:
            writer.write("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())

        path = asked.target.partition("?")[0]
        if path.startswith("/big/"):
            count = int(path.removeprefix("/big/"))
            head("200 OK", f"Content-Length: {count}")
            while count:
                writer.write(b"x" * min(count, 65536))
                count -= min(count, 65536)
                await writer.drain()
        elif path == "/events":
            head(
                "200 OK",
                "Content-Type: text/event-stream",
                "Transfer-Encoding: chunked",
                "Connection: keep-alive, X-Hop",
                "X-Hop: 1",
            )
            while (event := await self.events.get()) is not None:
                data = f"data: {event}\n\n".encode()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        elif path == "/redirect":
            head("302 Found", "Location: http://other.test/elsewhere", "Content-Length: 0")
        elif path == "/204":
            head("204 No Content")
        elif path == "/304":
            head("304 Not Modified", 'ETag: "1"', "Content-Length: 100")
        elif path == "/hang":
            await reader.read(1)
            return False
        elif path == "/cut":
            head("200 OK", "Content-Length: 100")
            writer.write(b"half")
            await writer.drain()
            return False
        elif path == "/no-http":
            writer.write(b"\x00\x01 what?\r\n\r\n")
            await writer.drain()
            return False
        elif path == "/until-close":
            head("200 OK", "Connection: close")
            writer.write(b"until close")
            await writer.drain()
            return False
        else:
            body = json.dumps(
                {"target": asked.target, "body_bytes": asked.body_bytes, "body_sha": asked.body_sha}
            ).encode()
            head("200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", "X-Two: a", "X-Two: b")
            if asked.method != "HEAD":
                writer.write(body)
        await writer.drain()
        return True


@asynccontextmanager
async def host(tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    found = Host()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


@attrs.define(eq=False)
class Connection:
    """What a box has in hand: it may send anything, and keeps all that it ever got."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: bytearray = attrs.Factory(bytearray)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        data = await asyncio.wait_for(self.reader.readuntil(mark), 10)
        self.seen += data
        return data

    async def exactly(self, count: int) -> bytes:
        data = await asyncio.wait_for(self.reader.readexactly(count), 20)
        self.seen += data
        return data

    async def rest(self, within_s: float = 10) -> bytes:
        data = b""
        with suppress(ConnectionError):
            data = await asyncio.wait_for(self.reader.read(), within_s)
        self.seen += data
        return data

    async def response(self, *, body: bool = True) -> Response:
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        _, status, *_ = first.split(" ")
        headers = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in lines]
        known = dict(headers)
        content = b""
        if body and known.get("transfer-encoding") == "chunked":
            while size := int(await self.until(b"\r\n"), 16):
                content += await self.exactly(size)
                await self.exactly(2)
            await self.exactly(2)
        elif body and "content-length" in known:
            content = await self.exactly(int(known["content-length"]))
        return Response(int(status), headers, content)

    async def ask(self, text: str, body: bytes = b"") -> Response:
        """Send a request: its lines are separated by `\\n`, and the empty last one is added."""
        await self.send(text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return await self.response(body=not text.startswith("HEAD"))

    async def connect(self, destination: str) -> Response:
        await self.send(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        head = await self.until(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status == 200:
            return Response(200, [], b"")
        return Response(status, [], await self.rest())

    async def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        await asyncio.wait_for(self.writer.start_tls(context, server_hostname=name), 10)

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), 5)


@attrs.frozen
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])

    def json(self) -> Any:
        return json.loads(self.body)


@attrs.define(eq=False)
class Box:
    """The box's side of a gate."""

    gate: EgressGate
    directory: Path
    _open: list[Connection] = attrs.Factory(list)
    seen: list[bytearray] = attrs.Factory(list)

    @property
    def socket(self) -> Path:
        return self.directory / "gate.sock"

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca-bundle.pem"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        return context

    async def dial(self) -> Connection:
        found = Connection(*await asyncio.open_unix_connection(str(self.socket)))
        self._open.append(found)
        self.seen.append(found.seen)
        return found

    async def ask(self, text: str, body: bytes = b"") -> Response:
        return await (await self.dial()).ask(text, body)

    async def tunnel(self, destination: str, *, name: str | None = None) -> Connection:
        """A TLS connection through a tunnel, as a program makes it."""
        found = await self.dial()
        granted = await found.connect(destination)
        assert granted.status == 200, granted
        await found.start_tls(self.trust(), name or destination.partition(":")[0])
        return found

    async def hang_up(self) -> None:
        for one in self._open:
            await one.close()


@asynccontextmanager
async def box(
    allow: Sequence[str],
    *,
    headers: Mapping[str, Mapping[str, str]] | None = None,
    resolve: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Box]:
    policy = Egress(allow=allow, headers=headers or {}, resolve=resolve or {})
    # Not pytest's: a socket's path has a length, and theirs are long.
    with tempfile.TemporaryDirectory(prefix="gate-") as directory:
        gate = EgressGate(policy, directory=Path(directory), name="box-1", **options)
        await gate.open()
        found = Box(gate, Path(directory))
        try:
            yield found
        finally:
            await found.hang_up()
            await gate.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None and process.stderr is not None
    line = await asyncio.wait_for(process.stdout.readline(), 10)
    assert line == b"ready\n", (line, await process.stderr.read())
