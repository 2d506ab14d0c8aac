"""The version, in a module of its own: the build and every part of the server read it without importing the rest."""

__version__ = "0.1.0"
