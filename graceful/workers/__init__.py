"""Several processes that are one instance: a supervisor, which holds the sockets, and its workers, which serve.

Python runs one thread at a time, so a machine with more processors needs more processes; and process 1 of a container
must stay while its code is replaced.  Both want a process that stays and does next to nothing:

    supervisor.py   the service: binds, holds, answers for all; never serves a request
    crew.py         keeps every place staffed: starts, restarts, replaces
    place.py        one of them: who works there, who comes
    keepers.py      who accepts for a place where nobody works
    muster.py       the first workers, before the reactor runs
    roll.py         SIGHUP: the next release, one worker at a time, and the way back
    places.py       which sockets belong to which worker
    process.py      one worker, as its supervisor sees it
    post.py         the supervisor, as a worker sees it
    line.py         what the two say to each other
    losses.py       what was lost with a worker that has died
    exodus.py       the way out of all of them together
    hands.py        how a successor gets the sockets
    orders.py       what can be done to all of them by order
    asking.py       one question to one worker, at its control
    looking.py      what each has said last, and what those that have ended had counted
    together.py     sums, the largest, the oldest first
    status.py       what they say of themselves, as one

A worker is a whole instance with an engine, a drain and deadlines of its own; it only gets its sockets from its
supervisor, as a successor does from its predecessor, and is looked at and ordered through it.
"""
