"""A collector of traces, as OpenTelemetry's exporter knows it: OTLP over HTTP, what has come is kept in memory."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from attrs import frozen
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire


@frozen
class Span:
    """A part of a trace.

    :ivar trace: the id of the trace.
    :ivar parent: the id of the span that it belongs to; empty if it begins the trace.
    """

    trace: str
    parent: str


class Collector:
    """Takes spans at a port of its own.

    :ivar url: the endpoint for the exporter.
    :ivar answers: set unless it is to keep its clients waiting.
    """

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.answers.wait()
                if self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                with suppress(OSError):  # a client that was kept waiting has given up
                    self.end_headers()

            def log_message(self, *ignored: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="collector", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, body: bytes) -> None:
        """Keep the spans of one message that are an exchange's on a server's side."""
        message = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._spans += [
                Span(span.trace_id.hex(), span.parent_span_id.hex())
                for resource in message.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
                if span.kind == Wire.SPAN_KIND_SERVER
            ]

    @property
    def spans(self) -> list[Span]:
        """What has come so far."""
        with self._lock:
            return self._spans.copy()
