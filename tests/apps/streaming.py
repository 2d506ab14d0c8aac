"""A WSGI application that streams, with a gate after its first piece; it imports nothing of graceful's."""

from urllib.parse import parse_qs

PIECES = 12


def application(environ, start_response):
    """Answer in twelve pieces of five bytes; the second one waits until the test opens the gate, if there is one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = parse_qs(environ["QUERY_STRING"]).get("path")
    for number in range(PIECES):
        if number == 1 and path:
            with open(path[0]) as gate:
                gate.read()
        yield b"chunk"
