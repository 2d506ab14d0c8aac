"""What is written line by line: the access log, and twistd's own log."""
