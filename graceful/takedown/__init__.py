"""What happens to an exchange that is still running when its time is over."""
