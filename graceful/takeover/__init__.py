"""A successor gets the listening sockets of a running server, its predecessor, which then drains.

| runs in     | module            | what it does                                                                |
|-------------|-------------------|-----------------------------------------------------------------------------|
| predecessor | `reload`          | starts a successor at SIGHUP                                                |
| successor   | `predecessor`     | is the running server, as its successor sees it: asks for the sockets       |
| predecessor | `successor_api`   | answers the successor, and sends the descriptors                            |
| both        | `offers`          | describes sockets, so that each address finds its own                       |
| predecessor | `socket_handover` | holds the hand-over as a state machine: one successor at a time, a way back |
| predecessor | `coordinator`     | releases the sockets and drains once the successor accepts                  |

Open connections move, too, each way between two processes on its own: at a takeover and from worker to worker.

| runs in | module                | what it does                                                          |
|---------|-----------------------|-----------------------------------------------------------------------|
| giver   | `connection_takers`   | spreads connections over those that take them                         |
| giver   | `connection_moves`    | gives them to one of these, batch by batch                            |
| both    | `connection_links`    | is the way, where the two have no control connection to each other    |
| taker   | `connection_arrivals` | takes them in from one process                                        |
| taker   | `arrival_links`       | takes them in from any number of processes                            |
| taker   | `receiving_client`    | is the client of control that receives descriptors                    |
"""
