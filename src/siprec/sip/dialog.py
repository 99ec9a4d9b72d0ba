"""Dialog state at an endpoint (RFC 3261 12): plain values, and the requests that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.uri import Uri

DialogKey = tuple[str, str, str]
"""Call-ID, local tag, remote tag."""


@dataclass(slots=True)
class Dialog:
    """One dialog as one side sees it; all fields are plain values (UAC-20).

    `local_uri` and `remote_uri` are From/To values without the tag; `local_cseq` is the number last used,
    `remote_cseq` the highest seen (-1: none yet); `route_set` holds Route values in the order to be sent; `owner`: we
    made the Call-ID.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local_uri: str
    remote_uri: str
    local_cseq: int
    remote_cseq: int
    remote_target: str
    route_set: list[str] = field(default_factory=list)
    secure: bool = False
    owner: bool = False

    @property
    def key(self) -> DialogKey:
        """Call-ID, local tag, remote tag (DLG-01)."""
        return (self.call_id, self.local_tag, self.remote_tag)

    @classmethod
    def from_response(cls, request: SipRequest, response: SipResponse, came_from: str = "") -> Self:
        """The UAC's dialog from a 2xx, or an early one from a 1xx with a To tag (RFC 3261 12.1.2; UAC-02).

        `came_from` is the remote target where a 2xx has no Contact: the URI of the address it came from.

        Raises:
            SipError: malformed headers, or a 2xx without Contact and `came_from` is empty.
        """
        contact = response.contact
        if contact is None and response.status >= 200 and not came_from:
            raise SipError("2xx without Contact")
        return cls(
            call_id=request.call_id,
            local_tag=request.from_tag,
            remote_tag=response.to_tag,
            local_uri=_untagged(request.from_),
            remote_uri=_untagged(request.to),
            local_cseq=request.cseq.number,
            remote_cseq=-1,
            remote_target=contact.uri.text if contact is not None else came_from or request.uri,
            route_set=list(reversed(response.values("record-route"))),
            secure=request.uri[:5].lower() == "sips:",
            owner=True,
        )

    @classmethod
    def from_request(cls, request: SipRequest, local_tag: str, *, secure: bool = False) -> Self:
        """The UAS's dialog from the request that makes it (RFC 3261 12.1.1). `secure`: it came over TLS.

        Raises:
            SipError: malformed headers or no Contact.
        """
        contact = request.contact
        if contact is None:
            raise SipError("Contact is missing")
        return cls(
            call_id=request.call_id,
            local_tag=local_tag,
            remote_tag=request.from_tag,
            local_uri=_untagged(request.to),
            remote_uri=_untagged(request.from_),
            local_cseq=0,
            remote_cseq=request.cseq.number,
            remote_target=contact.uri.text,
            route_set=request.values("record-route"),
            secure=secure and request.uri[:5].lower() == "sips:",
        )

    def confirm(self, response: SipResponse) -> None:
        """An early dialog of ours got its 2xx: target and route set are those of the 2xx (RFC 3261 13.2.2.4).

        Raises:
            SipError: malformed headers.
        """
        self.refresh_target(response)
        self.route_set = list(reversed(response.values("record-route")))

    @property
    def next_hop(self) -> Uri:
        """Where in-dialog requests go: the first Route, loose or strict, else the remote target.

        Raises:
            SipError: the peer gave a malformed URI.
        """
        return NameAddr.parse(self.route_set[0]).uri if self.route_set else Uri.parse(self.remote_target)

    def request(
        self,
        method: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
        cseq: int | None = None,
    ) -> SipRequest:
        """A request within the dialog (RFC 3261 12.2.1.1; UAC-05), without Via and Contact.

        Takes the next CSeq number; an ACK gives its INVITE's as `cseq`.

        Raises:
            SipError: the peer gave a malformed route or target.
        """
        uri = self.remote_target
        routes = self.route_set
        if routes:
            first = NameAddr.parse(routes[0]).uri
            if "lr" not in first.params:
                # Strict router: it is addressed itself, the target comes last.
                params = {name: value for name, value in first.params.items() if name != "method"}
                uri = first.replace(headers="", params=params).text
                routes = [*routes[1:], f"<{self.remote_target}>"]
        if cseq is None:
            self.local_cseq += 1
            cseq = self.local_cseq
        request = SipRequest(method, uri)
        for route in routes:
            request.add("Route", route)
        request.add("Max-Forwards", "70")
        request.add("From", f"{self.local_uri};tag={self.local_tag}")
        request.add("To", f"{self.remote_uri};tag={self.remote_tag}" if self.remote_tag else self.remote_uri)
        request.add("Call-ID", self.call_id)
        request.add("CSeq", f"{cseq} {method}")
        for name, value in headers:
            request.add(name, value)
        request.set_body(body, content_type or None)
        return request

    def refresh_target(self, message: SipMessage) -> None:
        """Take the peer's new Contact, if it gives one (RFC 3261 12.2.1.2, 12.2.2; UAC-18).

        Raises:
            SipError: malformed Contact.
        """
        contact = message.contact
        if contact is not None and contact.uri.is_sip:
            self.remote_target = contact.uri.text

    def to_dict(self) -> dict[str, Any]:
        """All fields, for storing."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            TypeError: fields are missing or unknown.
        """
        return cls(**values)


def dialog_key(request: SipRequest) -> DialogKey:
    """The dialog a received request is for, as its receiver names it.

    Raises:
        SipError: malformed headers.
    """
    return (request.call_id, request.to_tag, request.from_tag)


def _untagged(address: NameAddr) -> str:
    params = {name: value for name, value in address.params.items() if name != "tag"}
    return str(NameAddr(address.display_name, address.uri_text, params))
