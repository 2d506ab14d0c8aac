"""What an application's resource is in a tree: a leaf, which takes the exchange over from the tree.

A tree of resources ends at an application, however that is called.  The application answers in a thread or a task of
its own, so its resource does not render: it takes the exchange, with what was found of its path.
"""

from __future__ import annotations

from typing import Any, ClassVar

from graceful.web.exchange import Exchange


class ApplicationResource:
    """The base of the resources that serve an application, anywhere in a tree.

    :cvar known_as: the name of the resource, for a tree that serves it in the wrong way.
    :cvar serves: the kind of application, for a tree that takes it for a branch.
    """

    known_as: ClassVar[str]
    serves: ClassVar[str]
    isLeaf = True
    server: Any = None

    def handle(self, exchange: Exchange) -> None:
        """Have the application answer (:class:`graceful.web.interfaces.IHandler`)."""
        raise NotImplementedError

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """Answer below a prefix: the `SCRIPT_NAME` of a WSGI application, the `root_path` of an ASGI application."""
        end = len(prefix)
        while end and not prefix[end - 1]:
            end -= 1  # an application at `a/` is seen at `a`, and asked for `/`
        exchange.mount = _path(prefix[:end]), _path([*prefix[end:], *rest])
        self.handle(exchange)

    # -- IResource, for trees that ask --------------------------------------------------------------------

    def render(self, request: Any) -> int:
        """Take the exchange over, from a resource that is wrapped around this one.

        :raises RuntimeError: the request is stock Twisted's.
        """
        give_to = getattr(request.channel, "give_to", None)
        if give_to is None:
            raise RuntimeError(f"graceful's {self.known_as} is served by graceful, not by twisted.web.server.Site")
        from twisted.web.server import NOT_DONE_YET  # a request has it loaded, and no start needs it

        give_to(self, request.prepath, request.postpath)
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: Any) -> Any:
        """A leaf has no children."""
        raise RuntimeError(f"{self.serves} has no child resources")

    def putChild(self, path: bytes, child: Any) -> None:
        """A leaf has no children."""
        raise RuntimeError(f"{self.serves} has no child resources")


def _path(segments: list[bytes]) -> str:
    return b"".join(b"/" + segment for segment in segments).decode("latin-1")
