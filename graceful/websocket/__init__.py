"""WebSocket (RFC 6455): connections that leave HTTP, and live in the event loop with no thread."""
