"""What a scope says of TLS, as asgiref's `specs/tls.rst` has it."""

from __future__ import annotations

import ssl

from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi.tls_extension import SUITES, tls_extension
from graceful.tls.certificates import CIPHERS


class TLSExtensionTests(SynchronousTestCase):
    """The keys of the extension."""

    def test_every_suite_that_is_offered_has_its_number(self) -> None:
        """As OpenSSL numbers it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(CIPHERS)
        self.assertEqual(SUITES, {one["name"]: one["id"] & 0xFFFF for one in context.get_ciphers()})

    def test_a_client_without_a_certificate_has_no_name(self) -> None:
        """The session is told."""
        facts = {
            "SSL_PROTOCOL": "TLSv1.2",
            "SSL_CIPHER": "ECDHE-RSA-AES128-GCM-SHA256",
            "SSL_CLIENT_VERIFY": "NONE",
            "SSL_SERVER_CERT": "-----BEGIN",
        }
        self.assertEqual(
            tls_extension(facts),
            {
                "server_cert": "-----BEGIN",
                "client_cert_chain": [],
                "client_cert_name": None,
                "client_cert_error": None,
                "tls_version": 0x0303,
                "cipher_suite": 0xC02F,
            },
        )

    def test_a_balancer_tells_less(self) -> None:
        """What it does not tell is None; a name is escaped as in a whole one, and is text."""
        facts = {
            "SSL_PROTOCOL": "TLSv1.3",
            "SSL_CLIENT_VERIFY": "SUCCESS",
            "SSL_CLIENT_S_DN_CN": "J\u00c3\u00b6rg, of the tests",
        }
        told = tls_extension(facts)
        self.assertEqual(told["client_cert_name"], "CN=J\u00f6rg\\, of the tests")
        self.assertEqual((told["server_cert"], told["cipher_suite"], told["tls_version"]), (None, None, 0x0304))
        failed = tls_extension({"SSL_CLIENT_VERIFY": "FAILED"})
        self.assertTrue(failed["client_cert_error"])
        self.assertIsNone(failed["client_cert_name"])
