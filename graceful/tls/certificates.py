"""The certificates of one listening socket: loaded, chosen by the name that a client asks for, and replaced.

A set of certificates is loaded as a whole, into new contexts, and takes the place of the old one in one step, or not
at all.  So a handshake gets the old one or the new one, and a pair that does not fit changes nothing.

What is offered is what Mozilla's guidelines call *intermediate*: TLS 1.2 and 1.3, with forward secrecy and
authenticated encryption only; and HTTP/1.1 as the application's protocol (ALPN, RFC 7301).
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from attrs import frozen

from graceful.sockets.address import TLS
from graceful.tls.x509 import About, BadDER, about_first, first_of

#: For TLS 1.2; those of TLS 1.3 are all good.
CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)

#: Ways of key exchange.  OpenSSL knows the first one, which quantum computers do not break, since its version 3.5.
GROUPS: Final = ("X25519MLKEM768", "X25519", "prime256v1", "secp384r1")

#: Errors of the system, which say nothing of a file.
_PASSING: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))

#: What is known of a file: device, inode, time of the last change, also of permissions, bytes; None if there is none.
Stamp = tuple[int, int, int, int] | None


class BadCertificate(Exception):
    """A certificate cannot be used.  The text is one line for the operator.

    :ivar passing: whether the system is to blame, and not the files: they may be good the next time.
    """

    def __init__(self, text: str, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


class ServerContext(ssl.SSLContext):
    """What connections are made with.

    :ivar pem: the server's certificate, which the client gets.
    """

    pem: str


@frozen
class Certificate:
    """A certificate with its key, loaded.

    :ivar path: its file.
    :ivar about: whom it is for, and until when.
    :ivar context: what connections are made with.
    """

    path: str
    about: About
    context: ServerContext


class Certificates:
    """The certificates of the sockets with one and the same configuration.

    :param tls: their files.
    :raises BadCertificate: one of them cannot be used.
    :ivar loaded: the certificates that new connections get; the first one if they ask for no name of the others'.
        Replaced as a whole; written by the reactor thread.
    :ivar stamps: the files as they were when these were loaded.
    """

    def __init__(self, tls: TLS) -> None:
        self.tls = tls
        self._by_name: dict[str, ServerContext] = {}
        self.use(*self.load())

    def load(self) -> tuple[tuple[Stamp, ...], tuple[Certificate, ...]]:
        """Load the files as they are now, and change nothing.  Any thread; waits for the disk.

        :returns: what `use` takes.
        :raises BadCertificate: one of them cannot be used.
        """
        stamps = self.look()  # before, so that a change meanwhile is seen the next time
        return stamps, load(self.tls)

    def look(self) -> tuple[Stamp, ...]:
        """Returns what is known of the files now.  Any thread; waits for the disk."""
        ours = [path for pair in self.tls.certificates for path in pair]
        return tuple(_stamp(path) for path in (*ours, *([self.tls.client_ca] if self.tls.client_ca else ())))

    def use(self, stamps: tuple[Stamp, ...], loaded: tuple[Certificate, ...]) -> None:
        """Give new connections these certificates.  Reactor thread."""
        self.stamps, self.loaded = stamps, loaded
        self._by_name = {name: one.context for one in reversed(loaded) for name in one.about.names}

    @property
    def several(self) -> bool:
        """Whether the name that a client asks for makes a difference."""
        return len(self.loaded) > 1

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, name: str = "") -> ssl.SSLObject:
        """Begin a connection with the certificates of now.  Reactor thread.

        :param incoming: where it reads from.
        :param outgoing: where it writes to.
        :param name: the name that the client asks for, in lower case; empty if it asks for none.
        """
        found = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2]) if name else None
        return (found or self.loaded[0].context).wrap_bio(incoming, outgoing, server_side=True)

    def describe(self) -> list[dict[str, Any]]:
        """Returns the certificates as JSON objects."""
        return [{"file": one.path, "names": list(one.about.names), "ends": one.about.ends} for one in self.loaded]


def load(tls: TLS) -> tuple[Certificate, ...]:
    """Load certificates and their keys.

    :raises BadCertificate: one of them cannot be used.
    """
    return tuple(_load(path, key, tls.client_ca) for path, key in tls.certificates)


def _load(path: str, key: str, client_ca: str | None) -> Certificate:
    def encrypted() -> NoReturn:
        # Without this OpenSSL would ask for the password at the terminal.
        raise BadCertificate(f"{key}: the key is encrypted, and a server cannot ask for its password")

    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE  # a phone knows best what it is fast with
    limit_groups(context)
    context.set_alpn_protocols(["http/1.1"])
    try:
        with open(path, encoding="latin-1") as file:
            text = file.read()
        about, context.pem = about_first(text), first_of(text)
        context.load_cert_chain(path, key, encrypted)
    except BadDER as error:
        raise BadCertificate(f"{path}: {error}") from None
    except ssl.SSLError as error:
        raise BadCertificate(f"{path}: {_in_words(error, key)}") from None
    except OSError as error:
        raise BadCertificate(_missing(error, path, key), error.errno in _PASSING) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:  # ssl.SSLError, too
            why = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise BadCertificate(f"{client_ca}: {why}", error.errno in _PASSING) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Certificate(path, about, context)


def limit_groups(context: Any) -> None:
    """Have a context offer the ways of key exchange of the guidelines only, where Python can: since its version 3.15.

    Before, OpenSSL's own list holds, which has X448 and P-521 as well; both are good.
    """
    if hasattr(context, "set_groups"):
        try:
            context.set_groups(":".join(GROUPS))
        except ssl.SSLError:
            context.set_groups(":".join(GROUPS[1:]))


def _in_words(error: ssl.SSLError, key: str) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} is another certificate's"
    if error.reason in (None, "NO_START_LINE", "UNSUPPORTED"):
        return f"there is no key that can be read in {key}"
    return f"it cannot be used with the key in {key}: {error.reason.replace('_', ' ').lower()}"


def _missing(error: OSError, path: str, key: str) -> str:
    """Returns which file cannot be read, and why: OpenSSL does not say which."""
    for one in (path, key):
        if not os.access(one, os.R_OK):
            return f"{one}: it cannot be read: {error.strerror}"
    return f"{path}: {error.strerror}"


def _stamp(path: str) -> Stamp:
    """Returns what is known of a file, not of a symbolic link to it."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_ctime_ns, about.st_size


class CertificateStore:
    """All certificates of a server.

    :ivar sets: those of each configuration.
    """

    def __init__(self) -> None:
        self.sets: dict[TLS, Certificates] = {}

    def add(self, configurations: Sequence[TLS | None]) -> None:
        """Load the certificates of these sockets; None is a plain one.

        :raises BadCertificate: one of them cannot be used.
        """
        for tls in configurations:
            if tls is not None and tls not in self.sets:
                self.sets[tls] = Certificates(tls)

    def of(self, tls: TLS) -> Certificates:
        """Returns the certificates of a socket, which are loaded now if they have not been.

        :raises BadCertificate: one of them cannot be used.
        """
        self.add([tls])
        return self.sets[tls]

    def describe(self) -> list[dict[str, Any]]:
        """Returns every certificate as a JSON object, each file once."""
        every = [one for certificates in self.sets.values() for one in certificates.describe()]
        return list({one["file"]: one for one in every}.values())
