"""The threads that a server has beside the reactor's, and how an exception reaches one of them.

Each kind of work has its own: the application's requests (`pool`), its callables without a request (`callbacks`), and
the disk (`disk`).  All are daemons: a thread that never ends must not hold the process.
"""
