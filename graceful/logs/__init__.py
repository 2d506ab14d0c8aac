"""Log files: the access log, and twistd's own log."""
