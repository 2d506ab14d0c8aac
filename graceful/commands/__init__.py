"""What the `graceful` command can do: one module for each kind of thing."""
