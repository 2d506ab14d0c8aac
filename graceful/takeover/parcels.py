"""How what a connection carries goes to the successor: a file in memory, and the descriptors that it names.

The file (memfd_create(2)) has a line of JSON and then the bytes that JSON says the lengths of: requests are as large
as their clients like, and the answer that the descriptors ride on has to stay small.  The format has a number; a
process that knows another number than the sender's is not sent any, and says so about what it is sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import asdict

from graceful.web.carrying import Carried, CarriedAnswer, CarriedRequest
from graceful.web.chunk_place import ChunkPlace
from graceful.web.moving import BadConnection
from graceful.web.request_parser import Place

#: The number of the format.
FORMAT: Final = 1
#: Bytes of a parcel that is taken for one: a connection has a few requests, each with a bounded head and body.
LARGEST: Final = 1 << 24


def pack(carried: Carried) -> list[int]:
    """Returns descriptors to be sent: a new one, which the caller closes, and those that it names, which are not.

    :raises OSError: the system has no memory or no descriptor for it.
    """
    pieces: list[bytes] = []

    def put(data: bytes) -> int:
        pieces.append(data)
        return len(data)

    files = carried.files
    head = {
        "format": FORMAT,
        "requests": [_request(one, files, put) for one in carried.requests],
        "begun": _request(carried.begun, files, put) if carried.begun is not None else None,
        "answer": _answer(carried.answer, files, put) if carried.answer is not None else None,
        "place": _place(carried.place, put) if carried.place is not None else None,
        "head_since": carried.head_since,
        "unparsed": put(carried.unparsed),
        "expects": carried.expects,
        "eof": carried.eof,
        "ignoring": carried.ignoring,
    }
    fd = os.memfd_create("graceful requests", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.writelines(pieces)
    except BaseException:
        os.close(fd)
        raise
    return [fd, *files]


def unpack(descriptors: Sequence[int]) -> Carried:
    """Returns what another process has packed.  The first descriptor is closed.

    :raises BadConnection: it is of another format, or not valid; then all descriptors are closed.
    """
    try:
        try:
            return _unpack(descriptors)
        finally:
            os.close(descriptors[0])
    except (AssertionError, KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        raise BadConnection(f"its requests cannot be read: {type(error).__name__} {error}"[:200]) from None


def _unpack(descriptors: Sequence[int]) -> Carried:
    size = os.fstat(descriptors[0]).st_size
    assert size <= LARGEST, "too large"
    data = os.pread(descriptors[0], size, 0)
    end = data.index(b"\n") + 1
    said = json.loads(data[:end])
    assert said["format"] == FORMAT, "another format"
    files = iter(descriptors[1:])
    rest = memoryview(data)[end:]

    def take(length: int) -> bytes:
        nonlocal rest
        assert 0 <= length <= len(rest), "too short"
        piece, rest = bytes(rest[:length]), rest[length:]
        return piece

    carried = Carried(
        [_read_request(one, files, take) for one in said["requests"]],
        None,
        _read_request(said["begun"], files, take) if said["begun"] is not None else None,
        None,
        float(said["head_since"]),
        b"",
        bool(said["expects"]),
        bool(said["eof"]),
        bool(said["ignoring"]),
    )
    if said["answer"] is not None:
        assert carried.requests
        answer = dict(said["answer"])
        mine = [next(files) for _ in range(answer.pop("files"))]
        carried.answer = CarriedAnswer(**{**answer, "files": mine, "rest": take(answer["rest"])})
    if said["place"] is not None:
        place = said["place"]
        chunks = place["chunks"]
        carried.place = Place(
            take(place["head"]),
            int(place["left"]),
            ChunkPlace(int(chunks["left"]), take(chunks["line"]), bool(chunks["last"]))
            if chunks is not None
            else None,
        )
    carried.unparsed = take(said["unparsed"])
    assert not rest and next(files, None) is None, "more than was announced"
    return carried


def _request(request: CarriedRequest, files: Sequence[int], put: Any) -> dict[str, Any]:
    said = {name: getattr(request, name) for name in _PLAIN}
    said["target"] = request.target.decode("latin-1")
    said["headers"] = _text(request.headers)
    said["trailers"] = _text(request.trailers) if request.trailers is not None else None
    said["body"] = put(request.body) if request.body is not None else None
    said["file"] = request.file >= 0
    return said


def _read_request(said: dict[str, Any], files: Iterator[int], take: Any) -> CarriedRequest:
    return CarriedRequest(
        **{name: said[name] for name in _PLAIN},
        target=said["target"].encode("latin-1"),
        headers=_bytes(said["headers"]),
        trailers=_bytes(said["trailers"]) if said["trailers"] is not None else None,
        body=take(said["body"]) if said["body"] is not None else None,
        file=next(files) if said["file"] else -1,
    )


_PLAIN: Final = "id own_id method version peer scheme keep error received started arrived".split()


def _answer(answer: CarriedAnswer, files: Sequence[int], put: Any) -> dict[str, Any]:
    return {**asdict(answer), "files": len(answer.files), "rest": put(answer.rest)}


def _place(place: Place, put: Any) -> dict[str, Any]:
    chunks = place.chunks
    head = put(place.head)
    return {
        "head": head,
        "left": place.left,
        "chunks": {"left": chunks.left, "line": put(chunks.line), "last": chunks.last}
        if chunks is not None
        else None,
    }


def _text(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _bytes(fields: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
