"""Takedown: ending an exchange that is still running when its time is over."""
