"""How does the gate speak for a host to the box, so that it can add headers to what the box says in TLS?

It has a certificate authority of its own, which only this box trusts (`ca-bundle.pem`), and makes certificates for the
hosts whose headers it sets. The keys are in memory, and in the gate's private directory when it has one.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from boxflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_AUTHORITY_FILE = "authority.pem"
_AUTHORITY_DAYS = 3650
_LEAF_DAYS = 30
# A clock that is set back a little must not make a certificate one of the future.
_EARLIER = dt.timedelta(hours=1)
# A pattern can stand for any number of hosts.
_MOST_CONTEXTS = 128


def now_utc() -> dt.datetime:
    """The time; certificates are about that of the world."""
    return dt.datetime.now(dt.UTC)


@attrs.define(eq=False)
class Authority:
    """Makes a server's TLS context for a host. Its methods compute and touch files: call them in a thread."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey
    leaf_key: EllipticCurvePrivateKey
    now: Callable[[], dt.datetime] = now_utc
    _contexts: dict[str, tuple[ssl.SSLContext, dt.datetime]] = attrs.field(
        factory=dict[str, tuple[ssl.SSLContext, dt.datetime]], init=False
    )

    def pem(self) -> str:
        """Its certificate, for those who shall trust it."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def context_for(self, host: str) -> ssl.SSLContext:
        """A context that shows a certificate for *host*; the same one until the certificate gets old."""
        context, until = self._contexts.pop(host, (None, None))
        if context is None or until is None or until < self.now() + dt.timedelta(days=1):
            context, until = self._make_context(host)
        while len(self._contexts) >= _MOST_CONTEXTS:
            # The one that was longest not used: each use puts its host at the end. Two threads may be here.
            self._contexts.pop(next(iter(self._contexts)), None)
        self._contexts[host] = (context, until)
        return context

    def _make_context(self, host: str) -> tuple[ssl.SSLContext, dt.datetime]:
        from cryptography.hazmat.primitives.serialization import Encoding

        leaf = _sign_leaf(host, self, self.now())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # The `ssl` module takes keys from files only.
        with tempfile.TemporaryDirectory(prefix="boxflow-gate-") as directory:
            path = Path(directory, "leaf.pem")
            _write_private(path, _key_pem(self.leaf_key) + leaf.public_bytes(Encoding.PEM))
            context.load_cert_chain(path)
        return context, leaf.not_valid_after_utc


def load_authority(private_directory: Path | None) -> Authority:
    """The authority kept in *private_directory*, or a new one, which is then kept there.

    Blocking: call it in a thread.

    :raises ConfigurationError: what is there is no authority
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    path = None if private_directory is None else private_directory / _AUTHORITY_FILE
    if path is not None and path.exists():
        pem = path.read_bytes()
        try:
            key, certificate = load_pem_private_key(pem, password=None), x509.load_pem_x509_certificate(pem)
        except ValueError as exc:
            raise ConfigurationError(f"{str(path)!r} is no egress authority; remove it, and a new one is made") from exc
        assert isinstance(key, EllipticCurvePrivateKey), "no other kind is ever written there"
    else:
        key = generate_private_key(SECP256R1())
        certificate = _sign_itself(key, now_utc())
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_private(path, _key_pem(key) + certificate.public_bytes(Encoding.PEM))
    return Authority(certificate, key, generate_private_key(SECP256R1()))


def _sign_itself(key: EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    serial = x509.random_serial_number()
    # A name of its own: with two authorities of one name, programs try the wrong one and give up.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"boxflow egress gate {serial % 2**32:08x}")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + dt.timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _sign_leaf(host: str, authority: Authority, now: dt.datetime) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    issuer, public_key = authority.certificate, authority.leaf_key.public_key()
    return (
        x509.CertificateBuilder()
        # Not the host: a common name has 64 characters at most, and nobody reads it where there are alternative names.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "boxflow egress gate")]))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(min(now + dt.timedelta(days=_LEAF_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, SHA256())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """A file that only we can read, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
        file.write(content)
    unfinished.replace(path)
