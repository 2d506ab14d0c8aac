"""A server as a Twisted service: the engine that serves, its shutdown, its orders and its status.

This folder alone uses all the folders below it.
"""
