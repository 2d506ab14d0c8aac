"""The server's side towards the application: its import, the current exchange, time limits, and hooks at a drain."""
