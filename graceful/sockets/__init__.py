"""Listening sockets: what to listen on, how to get it, how to accept, and how to close without losing
anybody.

Nothing here knows what is spoken on the connections.
"""
