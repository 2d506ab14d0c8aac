"""Those who wait for events in one process, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from graceful import Parked

tickets: dict[str, Parked] = {}


def send_event(asked: Mapping[str, str]) -> bool:
    """Send an event, `body` with the `id` if there is one, to who waits under a `name`; without a `body`, finish.

    :returns: whether that was in time.
    """
    ticket = tickets.get(asked["name"])
    if ticket is None:
        return False
    id = f"id: {asked['id']}\n" if "id" in asked else ""
    return ticket.send(f"{id}data: {asked['body']}\n\n".encode()) if "body" in asked else ticket.finish()
