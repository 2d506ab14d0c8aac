"""What a scope says of the client's TLS: the extension `tls` of ASGI, version 0.2 (`specs/tls.rst` of asgiref).

It is made from what the environ of a WSGI application says, under the names of mod_ssl.  So it is the same whether
the server speaks TLS itself, or a balancer does and tells of it by the PROXY protocol; what a balancer does not tell
is None, as the specification has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from graceful.web.client_certificate import escaped

_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

#: The numbers of the suites that are offered, by OpenSSL's names.
SUITES: Final = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM-SHA384": 0xC02C,
    "ECDHE-RSA-AES128-GCM-SHA256": 0xC02F,
    "ECDHE-RSA-AES256-GCM-SHA384": 0xC030,
    "ECDHE-RSA-CHACHA20-POLY1305": 0xCCA8,
    "ECDHE-ECDSA-CHACHA20-POLY1305": 0xCCA9,
}


def tls_extension(facts: Mapping[str, str]) -> dict[str, Any]:
    """Returns the extension for a connection of which these facts are known, made for one scope alone.

    :param facts: see :func:`graceful.web.client_certificate.facts_of`.
    """
    certificate = facts.get("SSL_CLIENT_CERT")
    return {
        "server_cert": facts.get("SSL_SERVER_CERT"),
        "client_cert_chain": [] if certificate is None else [certificate],
        "client_cert_name": _name(facts),
        "client_cert_error": "it is not verified" if facts.get("SSL_CLIENT_VERIFY") == "FAILED" else None,
        "tls_version": _VERSIONS.get(facts.get("SSL_PROTOCOL", "")),
        "cipher_suite": SUITES.get(facts.get("SSL_CIPHER", "")),
    }


def _name(facts: Mapping[str, str]) -> str | None:
    name = facts.get("SSL_CLIENT_S_DN")
    if name is None and "SSL_CLIENT_S_DN_CN" in facts:  # all that a balancer tells
        name = f"CN={escaped(facts['SSL_CLIENT_S_DN_CN'])}"
    # The environ has bytes of UTF-8, each a character (PEP 3333); a scope has text.
    return None if name is None else name.encode("latin-1").decode("utf-8", "replace")
