"""Listening sockets: parsing `--listen`, binding, accepting, and closing without losing a connection.

Nothing here knows which protocol the connections speak.
"""
