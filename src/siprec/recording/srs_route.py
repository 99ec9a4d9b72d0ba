"""How an SRS is reached: its settings over those of the profile, and the ways that follow from them (RFC 7866 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec

from siprec.net.tls import TlsSettings
from siprec.sip.digest import Credentials, CredentialStore
from siprec.sip.errors import SipError
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Resolve

OUR_REALM: Final = "siprec"
"""What `siprec recorder` calls itself in challenges unless it is told else."""
TlsPolicy = Literal["full", "chain", "none"]


class SrsSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[recording.NAME.servers."HOST"]`` (or ``"HOST:PORT"``): how one SRS of the profile is reached. What is left out
    is as the profile says; credentials and the certificate each as a whole."""

    transport: Literal["", "udp", "tcp", "tls"] = ""
    outbound_proxy: str = ""
    socket: str = ""
    username: str = ""
    password: str = ""
    realm: str = ""
    allow_no_qop: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    tls_key_password: str = ""
    tls_ca: str = ""
    tls_verify: Literal["", "full", "chain", "none"] = ""
    tls_server_name: str = ""


@dataclass(frozen=True, slots=True)
class SrsRoute:
    """What an SRS is reached by. `socket` is ``transport:address:port``, `tls` None: as all other TLS connections;
    `server_name` is the name to verify, empty: the host of the URI. The credentials are for `more_realms`, too."""

    transport: str = ""
    outbound_proxy: str = ""
    socket: str = ""
    credentials: Credentials | None = None
    tls: TlsSettings | None = None
    server_name: str = ""
    more_realms: tuple[str, ...] = ()

    @property
    def store(self) -> CredentialStore | None:
        """The digest credentials, if there are any."""
        known = self.credentials
        if known is None:
            return None
        return CredentialStore([known, *(replace(known, realm=realm) for realm in self.more_realms)])

    @property
    def route(self) -> str:
        """The outbound proxy as a loose route, empty: none."""
        if not self.outbound_proxy:
            return ""
        uri = Uri.parse(self.outbound_proxy)
        return uri.text if "lr" in uri.params else uri.replace(params={**uri.params, "lr": None}).text

    def target(self, uri: Uri) -> Uri:
        """`uri` with our transport where it names none."""
        if not self.transport or uri.transport:
            return uri
        return uri.replace(params={**uri.params, "transport": self.transport})

    def through(self, resolve: Resolve, local: tuple[str, str, int] | None = None) -> Resolve:
        """`resolve`, with ways that have our name and TLS settings, and begin at the socket `local` (transport,
        address, port)."""
        if self.tls is None and not self.server_name and local is None:
            return resolve

        def own(hop: Hop) -> Hop:
            if local is not None:
                hop = replace(hop, transport=local[0], local=local[1:])
            if hop.transport == "tls":
                hop = replace(hop, server_name=self.server_name or hop.server_name, tls=self.tls)
            return hop

        def found(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
            if local is not None and not uri.transport:
                uri = uri.replace(params={**uri.params, "transport": local[0]})
            resolve(uri, lambda hops: done(hops if isinstance(hops, SipError) else [own(hop) for hop in hops]))

        return found


def place_of(server: str) -> tuple[str, str]:
    """``HOST:PORT`` and ``HOST`` of a SIP URI in lower case, as the keys of ``servers`` have them; the port left out
    where the URI has none.

    Raises:
        SipError: no URI.
    """
    uri = Uri.parse(server)
    host = uri.host.lower()
    host = f"[{host.strip('[]')}]" if ":" in host else host
    return (f"{host}:{uri.port}" if uri.port else host), host


def tls_of(certificate: str, key: str, key_password: str, ca: str, policy: TlsPolicy) -> TlsSettings | None:
    """The settings of connections to an SRS; None where nothing differs from all others."""
    if not certificate and not ca and policy == "full":
        return None
    return TlsSettings(
        certificate,
        key,
        key_password,
        ca,
        verify_server=policy != "none",
        verify_name=policy == "full",
    )
