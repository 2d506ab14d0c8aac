"""A small ordinary Flask application: a session, an upload, a streamed answer, a file, a redirect; and downloads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from flask import Flask, Response, redirect, request, send_file, session
from werkzeug.wrappers import Response as AnyResponse

from graceful import Parked
from graceful.contrib import flask as graceful

app = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/visits/")
def visits() -> str:
    """Count the visits of a browser in its session."""
    session["visits"] = session.get("visits", 0) + 1
    return f"visit {session['visits']}"


@app.post("/upload/")
def upload() -> str:
    """Take a file."""
    sent = request.files["file"]
    data = sent.read()
    return f"{sent.filename} {len(data)} {hashlib.sha256(data).hexdigest()} {request.form['note']}"


@app.get("/stream/")
def stream() -> Response:
    """Stream lines from a generator."""

    def lines() -> Iterator[str]:
        for number in range(1000):
            yield f"line {number}\n"

    return Response(lines(), mimetype="text/plain")


@app.get("/file/")
def file() -> AnyResponse:
    """Send a file."""
    return send_file(os.environ["FLASK_SITE_FILE"])


@app.get("/old/")
def old() -> AnyResponse:
    """Redirect to the new address."""
    return redirect("/visits/")


tickets: dict[str, Parked] = {}


@app.get("/download/<name>")
def download(name: str) -> AnyResponse:
    """Send a file from the disk."""
    directory = os.path.dirname(os.environ["FLASK_SITE_FILE"])
    return graceful.download(f"{directory}/{name}", as_attachment="save" in request.args)


@app.get("/store/<name>")
def store(name: str) -> AnyResponse:
    """Send a file from the file store."""
    return graceful.download(
        f"{os.environ['FILE_STORE']}/{name}", filename=request.args.get("as"), as_attachment=True
    )


@app.get("/wait/<name>")
def wait(name: str) -> AnyResponse:
    """Wait for news."""
    ticket = tickets[name] = Parked(float(request.args.get("timeout", "60")))
    return graceful.park(ticket)


@app.get("/events/<name>")
def events(name: str) -> AnyResponse:
    """Wait for events."""
    ticket = tickets[name] = Parked(60)
    return graceful.event_stream(ticket)


@app.get("/tell/<name>")
def tell(name: str) -> str:
    """Have news, an event, or the end of the events."""
    ticket = tickets.pop(name, None)
    if ticket is None:
        return "nobody"
    if "news" in request.args:
        return str(ticket.answer(200, [("Content-Type", "text/x-news")], request.args["news"].encode()))
    ticket.send(b"data: " + request.args["event"].encode() + b"\n\n")
    return str(ticket.finish())
