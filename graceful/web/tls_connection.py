"""Connections that speak TLS, on sockets of the server's own.

The bytes of a plain connection go from the thread that answers to the kernel.  Here they are encrypted in between, by
the same thread, so that as many processors encrypt as answer.  OpenSSL works on two buffers in memory
(`graceful.tls.session`), and the sockets stay this server's: the hub reads them, the write token says which thread
sends, and closing follows the same rules.  An `ssl.SSLSocket` would call send(2) for each record of 16 KiB and decide
itself when to read; pyOpenSSL has the same buffers with more Python around them, and is one more thing to install.

Which thread may touch what:

* the session has a lock of its own;
* what OpenSSL has written is a sequence, whose order the client checks.  Only the holder of the write token takes
  from it and sends it.  What OpenSSL writes of its own accord while an answer is being made waits for that answer's
  next piece;
* what the kernel did not take (`_sealed`) belongs to the holder of the write token, too;
* everything else is the reactor thread's.

What a client must not get at a cut is TLS's goodbye (`close_notify`): it says that nothing is missing.  It is said
after the last byte of an answer that is whole, and to an idle client.  What a client leaves out at its own end is not
asked for: requests have their own ends, and one that is cut is refused as on a plain connection.

A handshake has as much time as a first request (`--header-timeout`), and few bytes; that request's own time begins at
the end of it, in a drain as well.  A client that speaks plain HTTP is told so.
"""

from __future__ import annotations

import os
import socket
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Final

from graceful.logs.sparing import SparingLog
from graceful.tls.certificates import Certificates
from graceful.tls.client_hello import asked_name
from graceful.tls.session import TLSSession
from graceful.web.client_certificate import facts_of
from graceful.web.connection import Address
from graceful.web.proxied_connection import ProxiedConnection
from graceful.web.received_bodies import READ
from graceful.web.send_buffer import bound_send_buffer
from graceful.web.sending_half import JOIN
from graceful.web.write_token import Piece

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site

#: Bytes of an answer that are encrypted and sent at once; as many may wait encrypted for a slow client.
SLICE: Final = 1 << 16
#: Bytes of the rest of an answer that are sent before other connections have their turn.
TURN: Final = 1 << 18
#: Bytes of a handshake: a chain of certificates has room, and little else.
HANDSHAKE: Final = 1 << 17
#: Bytes that OpenSSL may have to say of its own accord while nothing can be sent.
UNSAID: Final = 1 << 14
_ENDLESS: Final = "its handshake has no end"
#: The whole answer to a client that speaks plain HTTP.
PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 47\r\n"
    b"Connection: close\r\n\r\nThis port speaks TLS: the URL needs https://.\r\n"
)


class TLSConnection(ProxiedConnection):
    """A connection on which TLS is spoken, behind a header of the PROXY protocol if the listener says so.

    :ivar scheme: `https`.
    """

    __slots__ = (
        "_certificates",
        "_goodbye",
        "_hello",
        "_received",
        "_sealed",
        "_session",
        "_shaken",
    )

    def __init__(
        self,
        site: Site,
        hub: Hub,
        sock: socket.socket,
        peer: Address | None,
        server: Address,
        refusals: SparingLog,
        certificates: Certificates,
        proxied: bool = False,
    ) -> None:
        # First what may fail: the register would keep a connection that never was.
        self._session = TLSSession(certificates)
        super().__init__(site, hub, sock, peer, server, refusals, proxied)
        self.scheme = "https"
        self._certificates = certificates
        self._hello: bytes | None = b"" if certificates.several else None
        self._sealed: Piece = b""
        self._shaken = self._goodbye = False
        self._received = 0

    @property
    def movable(self) -> bool:  # type: ignore[override]
        """No: its keys are in this process."""
        return False

    # -- reading: reactor thread --------------------------------------------------------------------------

    def readable(self) -> None:
        """Read what has come; decrypt it, or take the handshake a step further."""
        if self._header is not None:
            if not self._read_header():
                return
            self.scheme = "https"
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._end_of_input()
            return
        self.active = self._hub.now
        if self.parser.ignoring:
            return
        if not self._shaken:
            self._handshake(data)
            data = b""
        if self._shaken and not self.write_token.closed:
            self._read_on(data)

    def _handshake(self, data: bytes) -> None:
        """Take the handshake further."""
        if not self._received and 0x41 <= data[0] <= 0x5A:  # a capital letter, as a request begins with
            self._refuse("speaks plain HTTP where TLS is spoken", PLAIN)
            return
        self._received += len(data)
        if self._hello is not None:
            self._hello += data
            if (name := asked_name(self._hello)) is None:
                if self._received > HANDSHAKE:
                    self._refuse(_ENDLESS, b"")
                return
            data, self._hello = self._hello, None
            if name:
                self._session = TLSSession(self._certificates, name)
        failed = ""
        try:
            self._shaken = self._session.shake(data)
        except ssl.SSLError as error:  # ssl.CertificateError, too
            failed = f"its TLS handshake has failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
        else:
            if not self._shaken and self._received > HANDSHAKE:
                failed = _ENDLESS
        if failed:
            self._refuse(failed, self._session.said())
            return
        if self._shaken:
            self.facts = facts_of(self._session.object)
            self.opened = self._hub.now  # only now can the client send its first request
        self._say()

    def _refuse(self, why: str, answer: bytes) -> None:
        """Tell a client without a session why there will be none, and wait until it has heard."""
        self._refusals.warn("{peer} is refused: {why}", peer=self.peer or "unix", why=why)
        try:
            self.sock.send(answer)
        except OSError:
            pass  # it is gone; reading will tell
        self.half_close()

    def _read_on(self, data: bytes) -> None:
        """Decrypt what has come, and parse it."""
        clear, ended, failed = self._session.open(data)
        parser = self.parser
        if clear:
            parser.feed(clear)
            if parser.unparsed:
                self.receiver.pause()
        if self.write_token.closed:
            return
        if self._session.unsaid:
            self._say()
        if failed:
            self.close()
        elif ended:
            self._end_of_input()

    def _end_of_input(self) -> None:
        """The client has said that it sends nothing more, or has just closed."""
        if not self._shaken:
            self.close()
            return
        self.read(False)
        if self.receiver.end_of_input() or self.site.parked(self.write_token.current):
            self.close()

    def _say(self) -> None:
        """Send what OpenSSL says of its own accord; the next piece of an answer takes it along if there is one."""
        if not self.write_token.acquire_for_interim():
            if self._session.unsaid > UNSAID:
                self.close()
            return
        try:
            done = self._give(self._session.said())
        except OSError:
            self.write_token.release()
            self.close()
            return
        if done:
            self.write_token.release()
        else:
            self.write_token.leave_to_reactor([b""], False)
            self._want_write()

    # -- sending: the holder of the token -----------------------------------------------------------------

    def _give(self, sealed: Piece) -> bool:
        """Give encrypted bytes to the kernel.  Returns False if it has left some of them to us.

        :raises OSError: the connection is broken.
        """
        try:
            count = self.sock.send(sealed) if sealed else 0
        except BlockingIOError:
            count = 0
        self._sealed = memoryview(sealed)[count:] if count < len(sealed) else b""
        return not self._sealed

    def _give_long(self, sealed: list[bytes]) -> bool:
        """Give records to the kernel, as :meth:`_give` does."""
        try:
            count = self.sock.sendmsg(sealed)
        except BlockingIOError:
            count = 0
        self._sealed = memoryview(b"".join(sealed))[count:] if count < sum(map(len, sealed)) else b""
        return not self._sealed

    def _push_held(self) -> None:
        before = len(self._sealed)
        if before and not self._give(self._sealed):
            if len(self._sealed) < before:
                self.active = monotonic()  # the client is slow, and takes something
            raise BlockingIOError

    def transmit(self, head: bytes, data: bytes) -> list[Piece]:
        """Encrypt bytes and give them to the kernel, slice by slice.  Returns what was not encrypted.

        An empty piece stands for encrypted bytes which the kernel did not take.

        :raises OSError: the connection is broken.
        """
        if len(data) <= JOIN:
            return [] if self._give(self._session.seal(head + data)) else [b""]
        if not self._bounded:
            self._bounded = True
            bound_send_buffer(self.sock)
        view = memoryview(data)
        sealed = self._session.seal_long(head, view[:SLICE])
        view = view[SLICE:]
        while self._give_long(sealed):
            if not view:
                return []
            sealed = self._session.seal_long(view[:SLICE])
            view = view[SLICE:]
        return [view] if view else [b""]

    def push(self, piece: Piece) -> int:
        """Encrypt as much of the rest of an answer as the kernel takes, and no more than others can wait for."""
        self._push_held()
        view, count = memoryview(piece), 0
        while count < min(len(view), TURN):
            part = view[count : count + SLICE]
            count += len(part)
            if not self._give_long(self._session.seal_long(part)):
                break
        return count

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Encrypt a part of a file, and give it to the kernel; returns how many bytes went, 0 at the end."""
        self._push_held()
        data = os.pread(fd, min(count, SLICE), offset)
        if data:
            self._give_long(self._session.seal_long(data))
        return len(data)

    def writable(self) -> None:
        """The kernel takes more of the rest, or of TLS's goodbye.  Reactor thread."""
        in_goodbye = self._goodbye
        if not in_goodbye:
            super().writable()
            if self._goodbye:  # said with the last byte, and the kernel had no room: it is still to be sent
                self._want_goodbye()
            return
        try:
            self._push_held()
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._goodbye = False
        super()._shut()
        with self.write_token.lock:
            self.writing = False
            self._arm()

    def _shut(self) -> None:
        """After the last byte: say so to the client in TLS's own words, and then in TCP's."""
        if self._shaken:
            try:
                if not self._give(self._session.last_words()):
                    self._goodbye = True
                    self._want_goodbye()
                    return
            except OSError:
                pass  # the client was faster; reading will tell
        super()._shut()

    def _want_goodbye(self) -> None:
        """Have the reactor send the rest of TLS's goodbye.  Any thread."""
        with self.write_token.lock:
            if not self.write_token.closed:
                self.writing = True
                self._arm()

    # -- ending: reactor thread ---------------------------------------------------------------------------

    def stalls(self) -> bool:
        """Whether something is there for the client to take."""
        return bool(self._sealed) or super().stalls()

    def unsent(self) -> int:
        """Bytes that were encrypted, and that the client's kernel has not confirmed."""
        return len(self._sealed) + super().unsent()

    def half_close(self) -> None:
        """Close an idle connection; one whose handshake has not ended in time has nothing to be answered."""
        if self._shaken or self.parser.ignoring:
            super().half_close()
            return
        if not self.write_token.linger():
            self.close()
            return
        super()._shut()
        self.parser.ignoring = True

    def _release(self, reset: bool) -> None:
        if not reset and self._shaken and self.write_token.current is None and not self._sealed:
            try:
                self.sock.send(self._session.last_words())  # the client may have said its own, and wait
            except OSError:
                pass
        super()._release(reset)
