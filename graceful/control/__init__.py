"""How people and programs see what is in flight, and act on it: health, control socket, status page, metrics."""
