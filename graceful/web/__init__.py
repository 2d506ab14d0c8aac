"""HTTP/1.1 on connections: parsing, order, limits, keep-alive, drain.  Knows nothing of WSGI."""
