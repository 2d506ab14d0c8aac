"""What an application may ask of the server: its time limits, its exchange, hooks at a drain; and how it is imported."""
