"""One TLS session, between two buffers in memory.

OpenSSL is not safe for threads, and a client may send while it is answered.  So a lock is held for each call of it.
Nothing in there waits for anything but the processor, and never for longer than a slice of an answer takes.  OpenSSL
releases the interpreter's lock while it works, so that other threads run.

The buffers never give back what they have grown to, and a server has thousands of idle connections.  So an answer
passes through record by record, and what comes in pieces of two records.
"""

from __future__ import annotations

import ssl
import threading
from typing import Final

from graceful.tls.certificates import Certificates

#: The most bytes that a record holds (RFC 8446 §5.1): reading as many leaves none of it behind.
RECORD: Final = 1 << 14
#: Bytes that are decrypted at once; each rest of a record costs an exception.
PORTION: Final = 2 * RECORD

Part = bytes | memoryview


#: What was decrypted, whether the client has said that it sends nothing more, and whether the session has failed.
Opened = tuple[bytes, bool, bool]


class TLSSession:
    """The server's end of a session.

    :param certificates: of the listening socket.
    :param name: the name that the client asks for; empty if none.
    """

    __slots__ = ("_incoming", "_lock", "_outgoing", "_session")

    def __init__(self, certificates: Certificates, name: str = "") -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = certificates.begin(self._incoming, self._outgoing, name)
        self._lock = threading.Lock()

    @property
    def object(self) -> ssl.SSLObject:
        """OpenSSL's session, whose facts are known when the handshake has ended."""
        return self._session

    @property
    def unsaid(self) -> int:
        """Bytes that OpenSSL has to say, and that were not taken."""
        return self._outgoing.pending

    def said(self) -> bytes:
        """Take what OpenSSL has to say."""
        return self._outgoing.read()

    def shake(self, data: bytes) -> bool:
        """Take the handshake further.  Returns whether it has ended.

        :raises ssl.SSLError: it has failed.
        """
        with self._lock:
            self._incoming.write(data)
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

    def open(self, data: bytes) -> Opened:
        """Decrypt what has come, with what is left of before."""
        if len(data) <= PORTION:
            return self._open(data)
        clear: list[bytes] = []
        for at in range(0, len(data), PORTION):
            some, ended, failed = self._open(data[at : at + PORTION])
            clear.append(some)
            if ended or failed:
                break
        return b"".join(clear), ended, failed

    def _open(self, data: bytes) -> Opened:
        clear, ended, failed = b"", False, False
        more: list[bytes] = []
        incoming, session = self._incoming, self._session
        with self._lock:
            incoming.write(data)
            try:
                # Not until it wants more: an exception would cost as much as the decryption.
                while incoming.pending and not ended:
                    piece = session.read(RECORD)
                    if not piece:
                        ended = True
                    elif clear:
                        more.append(piece)
                    else:
                        clear = piece
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                failed = True
        return b"".join((clear, *more)) if more else clear, ended, failed

    def seal(self, data: bytes) -> bytes:
        """Encrypt a short answer.  Returns what is to be sent, with what OpenSSL has said before.

        :raises OSError: the session has failed.
        """
        with self._lock:
            if data:
                self._session.write(data)  # all of it: a buffer in memory is never full
            return self._outgoing.read()

    def seal_long(self, *pieces: Part) -> list[bytes]:
        """Encrypt pieces of a long answer, as :meth:`seal` does."""
        sealed = []
        session, outgoing = self._session, self._outgoing
        with self._lock:
            for piece in pieces:
                view = memoryview(piece)
                for at in range(0, len(piece), RECORD):
                    session.write(view[at : at + RECORD])
                    sealed.append(outgoing.read())
        return sealed

    def last_words(self) -> bytes:
        """Returns TLS's goodbye, encrypted, with what OpenSSL has said before."""
        with self._lock:
            try:
                self._session.unwrap()
            except (OSError, ValueError):
                pass  # it also waits for the client's, which need not come
            return self._outgoing.read()
