"""A successor gets the listening sockets of a running server, its predecessor, which then drains.

| process     | module          | what it does                                                                |
|-------------|-----------------|-----------------------------------------------------------------------------|
| predecessor | `reload`        | starts a successor at SIGHUP                                                |
| successor   | `predecessor`   | asks the running server for its sockets, before the reactor runs            |
| predecessor | `successor_api` | answers, and sends the descriptors                                          |
| both        | `offers`        | describes sockets, so that each address finds its own                       |
| predecessor | `succession`    | holds the hand-over as a state machine: one successor at a time, a way back |
| predecessor | `coordinator`   | releases the sockets and drains once the successor accepts                  |
"""
