"""What is known of a connection's TLS, under the names that mod_ssl of Apache gives it in the environ.

Applications that look at client certificates were written for these names, and so were the modules of frameworks
that log a user in by them.  What is not verified is not told: the handshake has failed before.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final

from graceful.tls.certificates import ServerContext

#: The short names of RFC 4514 §3, and those which OpenSSL adds.
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "userId": "UID",
}
#: What has a variable of its own, `SSL_CLIENT_S_DN_CN`.
_SINGLE: Final = {one: one for one in ("CN", "C", "L", "O", "OU", "ST", "UID")} | {"emailAddress": "Email"}
_SPECIAL: Final = re.compile(r'([,+"\\<>;]|^[ #]| \Z)')

_Name = tuple[tuple[tuple[str, str], ...], ...]


def facts_of(session: ssl.SSLObject) -> dict[str, str]:
    """Returns the variables about a session whose handshake is complete."""
    cipher = session.cipher()
    facts = {
        "SSL_PROTOCOL": session.version() or "",
        "SSL_CIPHER": cipher[0] if cipher is not None else "",
        "SSL_CLIENT_VERIFY": "NONE",
    }
    if isinstance(session.context, ServerContext):
        facts["SSL_SERVER_CERT"] = session.context.pem
    certificate: dict[str, Any] | None = session.getpeercert()
    if certificate:
        facts["SSL_CLIENT_VERIFY"] = "SUCCESS"
        facts["SSL_CLIENT_M_SERIAL"] = certificate.get("serialNumber", "")
        facts["SSL_CLIENT_V_START"] = certificate.get("notBefore", "")
        facts["SSL_CLIENT_V_END"] = certificate.get("notAfter", "")
        _name(facts, "SSL_CLIENT_S_DN", certificate.get("subject", ()))
        _name(facts, "SSL_CLIENT_I_DN", certificate.get("issuer", ()))
        for kind, number, value in _alternative(certificate.get("subjectAltName", ())):
            facts[f"SSL_CLIENT_SAN_{kind}_{number}"] = _native(value)
        whole = session.getpeercert(binary_form=True)
        if whole is not None:
            facts["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(whole)
    return facts


def _name(facts: dict[str, str], variable: str, name: _Name) -> None:
    """Add a distinguished name, most specific first (RFC 4514), and the first of each of its parts."""
    parts = []
    for relative in reversed(name):
        parts.append("+".join(f"{_SHORT.get(kind, kind)}={escaped(value)}" for kind, value in relative))
    facts[variable] = _native(",".join(parts))
    for relative in name:
        for kind, value in relative:
            single = _SINGLE.get(_SHORT.get(kind, kind))
            if single is not None:
                facts.setdefault(f"{variable}_{single}", _native(value))


def escaped(value: str) -> str:
    """Returns a value as it stands in a distinguished name (RFC 4514 §2.4)."""
    return _SPECIAL.sub(r"\\\1", value)


def _alternative(names: tuple[tuple[str, Any], ...]) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    for kind, variable in (("DNS", "DNS"), ("email", "Email")):
        values = [value for said, value in names if said == kind]
        found += [(variable, number, value) for number, value in enumerate(values)]
    return found


def _native(text: str) -> str:
    """Returns a text as the environ has it: bytes of UTF-8, each a character (PEP 3333)."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
