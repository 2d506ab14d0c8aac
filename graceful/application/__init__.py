"""What an application may ask of the server: time limits, the exchange, hooks at a drain; and how it is imported."""
