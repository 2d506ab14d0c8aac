"""A successor gets the listening sockets of a running server, its predecessor, which then drains.

| runs in     | module            | what it does                                                                |
|-------------|-------------------|-----------------------------------------------------------------------------|
| predecessor | `reload`          | starts a successor at SIGHUP                                                |
| successor   | `predecessor`     | is the running server, as its successor sees it: asks for the sockets       |
| predecessor | `successor_api`   | answers the successor, and sends the descriptors                            |
| both        | `offers`          | describes sockets, so that each address finds its own                       |
| predecessor | `socket_handover` | holds the hand-over as a state machine: one successor at a time, a way back |
| predecessor | `coordinator`     | releases the sockets and drains once the successor accepts                  |
"""
