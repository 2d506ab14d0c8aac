"""The way out of a server: from "stop" to "gone", whatever it is that serves.

| module     | what it does                                                           |
|------------|------------------------------------------------------------------------|
| `state`    | names the states of an instance                                        |
| `result`   | says how a drain has gone                                              |
| `schedule` | knows when the lame duck is over and when each of the deadlines comes  |
| `machine`  | has the steps in their order, and takes each when its event has come   |

Nothing is imported here: commands need the names of the states, and would wait for all of Twisted.
"""
