"""Certificates: read, chosen by the name that a client asks for, and read again when they are renewed."""
