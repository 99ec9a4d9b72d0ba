"""TLS settings and contexts (RFC 3261 26.3.1, RFC 5922)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import Final, Literal

#: What RFC 9325 4.2 leaves of TLS 1.2: forward secrecy and authenticated encryption. TLS 1.3 has nothing else.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"

MAX_CONTEXTS: Final = 1000


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """One identity and what it trusts. Paths name PEM files.

    `certificate` (with its chain) and `private_key` (empty: in the same file) are shown by a listener, and as client
    certificate when a server asks for one. `ca_file` (empty: the system's) has the trusted issuers. `verify_server`
    checks chain and name of the servers we connect to, the name only with `verify_name`; `verify_client` says whether
    a listener wants certificates of its clients. `ciphers` is an OpenSSL cipher list for TLS 1.2 (RFC 7866 12).
    """

    certificate: str = ""
    private_key: str = ""
    key_password: str = ""
    ca_file: str = ""
    verify_server: bool = True
    verify_name: bool = True
    verify_client: Literal["none", "optional", "required"] = "none"
    ciphers: str = CIPHERS

    def over(self, base: TlsSettings) -> TlsSettings:
        """These settings, with the certificate and the trust of `base` where there are none here."""
        result = self
        if not result.certificate:
            result = replace(
                result, certificate=base.certificate, private_key=base.private_key, key_password=base.key_password
            )
        return result if result.ca_file else replace(result, ca_file=base.ca_file)

    def server_context(self) -> ssl.SSLContext:
        """A context for accepting connections: TLS 1.2 or later.

        Raises:
            ValueError: no certificate is set.
            OSError: a file is missing, or not what it should be (``ssl.SSLError``).
        """
        if not self.certificate:
            raise ValueError("a TLS listener needs a certificate")
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        if self.verify_client != "none":
            context.verify_mode = ssl.CERT_REQUIRED if self.verify_client == "required" else ssl.CERT_OPTIONAL
            self._load_trust(context, ssl.Purpose.CLIENT_AUTH)
        return context

    def client_context(self) -> ssl.SSLContext:
        """A context for connecting: TLS 1.2 or later, name and chain checked unless `verify_server` is off.

        Raises:
            OSError: a file is missing, or not what it should be (``ssl.SSLError``).
        """
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        if self.verify_server:
            context.check_hostname = self.verify_name
            self._load_trust(context, ssl.Purpose.SERVER_AUTH)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(self.ciphers)
        self.refresh(context)
        return context

    def refresh(self, context: ssl.SSLContext) -> None:
        """Read the certificate again, for the handshakes that `context` is yet to make (a renewed certificate).

        Raises:
            OSError: a file is missing, or not what it should be (``ssl.SSLError``); the old certificate stays.
        """
        if self.certificate:
            # Always a password, so that OpenSSL never asks for one on the terminal.
            context.load_cert_chain(self.certificate, self.private_key or None, lambda: self.key_password)

    def _load_trust(self, context: ssl.SSLContext, purpose: ssl.Purpose) -> None:
        if self.ca_file:
            context.load_verify_locations(cafile=self.ca_file)
        else:
            context.load_default_certs(purpose)


class TlsContexts:
    """The contexts of one transport, whose own settings are `base`. They are kept: making one takes milliseconds."""

    def __init__(self, base: TlsSettings) -> None:
        self._base = base
        self._known: list[tuple[ssl.SSLContext, TlsSettings]] = []
        self._default: ssl.SSLContext | None = None
        self._special: dict[TlsSettings, ssl.SSLContext] = {}

    def listener(self, settings: TlsSettings) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For connections that a listener accepts, and for those that are opened from it.

        Raises:
            ValueError, OSError: as the contexts of :class:`TlsSettings`.
        """
        server, client = settings.server_context(), settings.client_context()
        self._known += ((server, settings), (client, settings))
        return server, client

    def client(self, settings: TlsSettings | None = None) -> ssl.SSLContext:
        """For connections that are opened with `settings`, or with those of the transport."""
        if settings is None:
            if self._default is None:
                self._default = self._base.client_context()
                self._known.append((self._default, self._base))
            return self._default
        context = self._special.get(settings)
        if context is None:
            if len(self._special) >= MAX_CONTEXTS:
                self._special.clear()
            context = self._special[settings] = settings.over(self._base).client_context()
        return context

    def refresh(self) -> None:
        """Read all certificates again.

        Raises:
            OSError: a file is missing, or not what it should be; where that is so the old certificate stays.
        """
        self._special.clear()
        for context, settings in self._known:
            settings.refresh(context)
