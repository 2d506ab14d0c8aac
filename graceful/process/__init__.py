"""What belongs to a process, whatever it serves.

Start-up before and after the fork, signals, the pid file, the last limit, the exit status, the monotonic clock,
systemd, and how the process was started so that it can be started again.  Nothing here knows HTTP.
"""
