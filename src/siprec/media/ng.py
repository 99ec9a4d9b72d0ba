"""The client side of the ng protocol: bencoded dictionaries over :mod:`siprec.media.request_tracker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

from siprec.media.bencode import BencodeError, Encodable, Value, decode_dict, encode
from siprec.media.engine import MediaError
from siprec.media.request_tracker import Malformed, RequestTracker

Reply: TypeAlias = dict[str, Value]
Request: TypeAlias = dict[str, object]
ReplyResult: TypeAlias = Callable[["Reply | MediaError"], None]


class NgClient(RequestTracker[Reply]):
    """ng requests to one server."""

    def request(
        self, command: str, arguments: Mapping[str, object], done: ReplyResult, *, timeout: float | None = None
    ) -> None:
        """Send `command` with `arguments`; `done` gets the reply whose ``result`` is not ``error``, or the error."""
        try:
            body = encode(cast("Mapping[str, Encodable]", {"command": command, **arguments}))
        except BencodeError as error:
            self.fail_soon(f"{command}: {error}", done)
            return
        call_id = cast("str", arguments["call-id"]) if "call-id" in arguments else ""
        self.submit(command, body, done, call_id=call_id, timeout=timeout)

    def read(self, body: bytes) -> Reply | MediaError:
        """What came after the cookie as a value, or as the refusal it is."""
        try:
            reply = decode_dict(body)
        except BencodeError as error:
            raise Malformed(f"no bencode: {error}") from None
        if "result" not in reply or reply["result"] == b"error":
            reason = reply.get("error-reason", b"error without a reason")
            text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            return MediaError(text, server=self.name)
        return reply
