"""The threads that a server has beside the reactor thread, and how an exception is raised in one of them.

Each kind of work has threads of its own: the application's requests (`pool`), its callables without a request
(`callbacks`), and the disk (`disk`).  All are daemons, since a thread that never ends must not hold the process.
"""
