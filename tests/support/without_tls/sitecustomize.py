"""Python imports this by itself when its directory is on PYTHONPATH: the server starts without pyOpenSSL and HTTP/2.

Twisted imports both if they are installed, as they are for the tests of TLS.  `pip install graceful-app` installs
neither, so that a server without them is as most are; and it starts in three quarters of the time.
"""

import sys

for _name in ("OpenSSL", "h2", "priority"):
    sys.modules[_name] = None  # type: ignore[assignment]
