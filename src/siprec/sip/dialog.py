"""Dialog state at an endpoint (RFC 3261 12): plain values, and the requests that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.uri import Uri

DialogKey = tuple[str, str, str]
"""Call-ID, local tag, remote tag."""

_STORED: Final = (
    "call_id",
    "local_tag",
    "remote_tag",
    "local_uri",
    "remote_uri",
    "local_cseq",
    "remote_cseq",
    "remote_target",
    "route_set",
    "secure",
    "owner",
)


_Block = tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...], Uri]
"""What all requests of a dialog have in common: what it was made of, Request-URI, keys and lines of the headers, where
the requests go."""


@dataclass(slots=True)
class Dialog:
    """One dialog as one side sees it; all fields are plain values.

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
    _block: _Block | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def key(self) -> DialogKey:
        """Call-ID, local tag, remote tag (RFC 3261 12)."""
        return (self.call_id, self.local_tag, self.remote_tag)

    @classmethod
    def from_response(cls, request: SipRequest, response: SipResponse, came_from: str = "") -> Self:
        """The UAC's dialog from a 2xx, or an early one from a 1xx with a To tag (RFC 3261 12.1.2).

        `came_from` is the remote target where a 2xx has no Contact: the URI of the address it came from.

        Raises:
            SipError: malformed headers, or a 2xx without Contact and `came_from` is empty.
        """
        addresses = untagged(request.from_), untagged(request.to)
        return cls.as_uac(request, response, request.from_tag, addresses, request.cseq.number, came_from)

    @classmethod
    def as_uac(
        cls,
        request: SipRequest,
        response: SipResponse,
        local_tag: str,
        addresses: tuple[str, str],
        cseq: int,
        came_from: str = "",
    ) -> Self:
        """As :meth:`from_response`, for who knows what is in the request: local tag, From and To without tags, CSeq
        number."""
        contact = response.contact
        if contact is None and response.status >= 200 and not came_from:
            raise SipError("2xx without Contact")
        return cls(
            call_id=response.call_id,
            local_tag=local_tag,
            remote_tag=response.to_tag,
            local_uri=addresses[0],
            remote_uri=addresses[1],
            local_cseq=cseq,
            remote_cseq=-1,
            remote_target=contact.uri.text if contact is not None else came_from or request.uri,
            route_set=response.values("record-route")[::-1],
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
            local_uri=untagged(request.to),
            remote_uri=untagged(request.from_),
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
        self.route_set = response.values("record-route")[::-1]

    @property
    def next_hop(self) -> Uri:
        """Where in-dialog requests go: the first Route, loose or strict, else the remote target.

        Raises:
            SipError: the peer gave a malformed URI.
        """
        return self._current_block()[4]

    def next_cseq(self) -> int:
        """The number for the next request of ours."""
        self.local_cseq += 1
        return self.local_cseq

    def request_to(
        self,
        method: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
        cseq: int | None = None,
    ) -> tuple[SipRequest, Uri]:
        """As :meth:`request`, with where it goes."""
        _, uri, keys, lines, next_hop = self._current_block()
        if cseq is None:
            self.local_cseq += 1
            cseq = self.local_cseq
        request = SipRequest(method, uri, [*keys, "cseq"], [*lines, f"CSeq: {cseq} {method}"])
        request.extend(headers)
        if content_type:
            request.add("Content-Type", content_type)
        request.keys.append("content-length")
        request.lines.append(f"Content-Length: {len(body)}")
        request.body = body
        return request, next_hop

    def request(
        self,
        method: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
        cseq: int | None = None,
    ) -> SipRequest:
        """A request within the dialog (RFC 3261 12.2.1.1), without Via and Contact.

        Takes the next CSeq number; an ACK gives its INVITE's as `cseq`.

        Raises:
            SipError: the peer gave a malformed route or target.
        """
        return self.request_to(method, headers, body, content_type, cseq)[0]

    def _current_block(self) -> _Block:
        made_of = (
            *(self.call_id, self.local_uri, self.local_tag, self.remote_uri, self.remote_tag),
            *(self.remote_target, *self.route_set),
        )
        block = self._block
        if block is None or block[0] != made_of:
            block = self._block = self._make_block(made_of)
        return block

    def _make_block(self, made_of: tuple[str, ...]) -> _Block:
        uri, routes = self.remote_target, self.route_set
        next_hop = Uri.parse(uri) if not routes else NameAddr.parse(routes[0]).uri
        if routes and "lr" not in next_hop.params:
            # Strict router: it is addressed itself, the target comes last.
            params = {name: value for name, value in next_hop.params.items() if name != "method"}
            uri = next_hop.replace(headers="", params=params).text
            routes = [*routes[1:], f"<{self.remote_target}>"]
        request = SipRequest("", uri)
        if routes:
            request.extend([("Route", route) for route in routes])
        request.extend(
            (
                ("Max-Forwards", "70"),
                ("From", f"{self.local_uri};tag={self.local_tag}"),
                ("To", f"{self.remote_uri};tag={self.remote_tag}" if self.remote_tag else self.remote_uri),
                ("Call-ID", self.call_id),
            )
        )
        return made_of, uri, tuple(request.keys), tuple(request.lines), next_hop

    def refresh_target(self, message: SipMessage) -> None:
        """Take the peer's new Contact, if it gives one (RFC 3261 12.2.1.2, 12.2.2).

        Raises:
            SipError: malformed Contact.
        """
        contact = message.contact
        if contact is not None and contact.uri.is_sip:
            self.remote_target = contact.uri.text

    def to_dict(self) -> dict[str, Any]:
        """All fields, for storing."""
        return {name: getattr(self, name) for name in _STORED} | {"route_set": [*self.route_set]}

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


def untagged(address: NameAddr) -> str:
    """A From or To value without its tag."""
    if not address.tag:
        return str(address)
    params = {name: value for name, value in address.params.items() if name != "tag"}
    return str(NameAddr(address.display_name, address.uri_text, params))
