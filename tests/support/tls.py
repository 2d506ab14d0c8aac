"""The forgiving-nothing client over TLS, and a certificate to serve it with.

Python's own TLS client takes a connection that ends without TLS's goodbye for an orderly end.  It is none: anybody
between client and server can end a connection so, and cut an answer that is delimited by it (RFC 9112 §9.8).
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.clients import Connection, Failure


class Certificate:
    """A certificate for 127.0.0.1, signed by itself.

    :param directory: where its file is made.
    :param file: the name of the file.
    :param names: DNS names that it is for, too.
    :param common: its common name.
    :param days: how many it is valid.
    :ivar endpoint: where a server listens with it through a plugin of Twisted's, on a port of the kernel's choice.
    :ivar own: where a server listens with it on a socket of its own.
    """

    def __init__(
        self,
        directory: Path,
        file: str = "certificate.pem",
        names: Sequence[str] = (),
        common: str = "graceful test",
        days: float = 1,
    ) -> None:
        self.path = directory / file
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        now = datetime.datetime.now(datetime.timezone.utc)
        others = (x509.DNSName(one) for one in names)
        address = (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *others)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(address), critical=False)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        self.own = f"tls:0:interface=127.0.0.1:certificate={self.path}"
        self.endpoint = f"ssl:0:privateKey={self.path}:certKey={self.path}:interface=127.0.0.1"

    def context(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """Return what a client needs to trust the certificate."""
        context = ssl.create_default_context(cafile=str(self.path))
        context.minimum_version = context.maximum_version = version
        return context

    def serving(self) -> ssl.SSLContext:
        """Return what a server needs to serve with the certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path)
        return context


class TLSConnection(Connection):
    """One TLS connection to a server (see :class:`support.clients.Connection`).

    :param context: what to trust.
    """

    def __init__(self, address: int | str, context: ssl.SSLContext, **more: Any) -> None:
        super().__init__(address, **more)
        self.socket: ssl.SSLSocket
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        except ConnectionError as error:
            self.socket.close()
            raise Failure("reset", f"in the handshake: {error}") from error

    def _receive(self, *, nothing_yet: bool = False) -> int:
        try:
            return super()._receive(nothing_yet=nothing_yet)
        except ssl.SSLEOFError as error:
            raise Failure("truncated", "the connection ended without TLS's goodbye") from error
