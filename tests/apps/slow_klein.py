"""A klein site with a Deferred that takes its time."""

from klein import Klein
from twisted.internet.defer import Deferred

app = Klein()
waiting = []


@app.route("/slow")
def slow(request):
    """Answer when somebody asks for /go."""
    deferred = Deferred()
    waiting.append(deferred)
    return deferred


@app.route("/waiting")
def count(request):
    """Say how many wait."""
    return b"%d" % len(waiting)


@app.route("/go")
def go(request):
    """Let everybody have an answer."""
    for deferred in waiting:
        deferred.callback(b"at last")
    waiting.clear()
    return b"gone"


resource = app.resource
