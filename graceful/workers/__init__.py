"""Several processes that are one instance: a supervisor, which holds the sockets, and its workers, which serve.

Python runs one thread at a time, so a machine with more processors needs more processes; and process 1 of a container
must stay while its code is replaced.  Both want a process that stays and does next to nothing: the supervisor.  A
worker is a whole instance with an engine, a drain and deadlines of its own; it gets its sockets from the supervisor,
as a successor does from its predecessor, and the supervisor watches it and passes orders on to it.

In the supervisor:

* :mod:`~graceful.workers.supervisor` is the service: it binds the sockets and never serves a request.
* :mod:`~graceful.workers.worker_pool` starts, restarts and replaces workers, each in a
  :mod:`~graceful.workers.slot`; :mod:`~graceful.workers.boot` waits for the first ones, by
  :mod:`~graceful.workers.reading`.
* :mod:`~graceful.workers.slot_sockets` says which listening sockets belong to which slot, and
  :mod:`~graceful.workers.slot_keepers` has siblings accept for a slot without a worker.
* :mod:`~graceful.workers.worker_takers` has the connections of a worker that leaves move to another one.
* :mod:`~graceful.workers.worker` is one worker process, and :mod:`~graceful.workers.worker_client` its control API.
* :mod:`~graceful.workers.rolling_restart` deploys the next release at SIGHUP, one worker at a time, and
  :mod:`~graceful.workers.recycling` replaces workers by their number of requests or their memory.
* :mod:`~graceful.workers.reloading` deploys at each change of the application's files.
* :mod:`~graceful.workers.preloading` has each release imported once, by a :mod:`~graceful.workers.fork_server`, which
  makes the workers by forks; :mod:`~graceful.workers.preload` is that process's own side.
* :mod:`~graceful.workers.worker_count` has more workers or fewer, while they serve.
* :mod:`~graceful.workers.status_poller` asks each worker for its status, :mod:`~graceful.workers.aggregate` adds them
  up, and :mod:`~graceful.workers.fleet_status` is the status of them all.
* :mod:`~graceful.workers.fleet_orders` passes orders to all workers; :mod:`~graceful.workers.fleet_drain` drains them
  together.
* :mod:`~graceful.workers.crash_reports` reports what was lost with a worker that died.

In a worker, :mod:`~graceful.workers.parent` is the supervisor, whose sockets
:mod:`~graceful.workers.supervised_sockets` accepts from.  Between the two, :mod:`~graceful.workers.channel`
carries messages and descriptors.
"""
