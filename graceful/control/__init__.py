"""How people and programs see what is in flight, and give orders: health, control socket, status page, metrics."""
