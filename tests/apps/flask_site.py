"""A small ordinary Flask application: a session, an upload, a streamed answer, a file, a redirect."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from flask import Flask, Response, redirect, request, send_file, session
from werkzeug.wrappers import Response as AnyResponse

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
