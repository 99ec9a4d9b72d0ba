"""What OpenSIPS' rtpengine and siprec modules say, replayed to our relay: each reply has the keys of RTPEngine's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from siprec import sdp
from siprec.media.bencode import decode_dict, encode
from tests.ngshape import covers, shape
from tests.unit.test_relay_server import relay

VECTORS = sorted((Path(__file__).parent.parent / "data" / "ng").glob("opensips-*.txt"))


@dataclass
class Exchange:
    request: dict[str, Any]
    reply: dict[str, Any]


def read(path: Path) -> list[Exchange]:
    """Requests and replies of a file, in the order of the replies."""
    waiting: dict[str, dict[str, Any]] = {}
    found = []
    for block in re.split(r"^### .*\n", path.read_text(), flags=re.M)[1:]:
        head, _, body = block.partition("\n")
        cookie = head.removeprefix("cookie").strip()
        message = json.loads(re.sub(r"\n {8}", r"\\r\\n", body.strip()), strict=False)
        if cookie in waiting:
            found.append(Exchange(waiting.pop(cookie), message))
        else:
            waiting[cookie] = message
    return found


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["bencode", "json"])
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_what_opensips_says_gets_what_rtpengine_answers(path: Path, form: str) -> None:
    exchanges = read(path)
    assert exchanges
    tags: dict[str, str] = {}
    with relay(ports=(47100, 47399)) as (server, _):
        for number, exchange in enumerate(exchanges):
            request = dict(exchange.request)
            if request.get("to-tag") in tags:
                request["to-tag"] = tags[request["to-tag"]]
            if "sdp" in request:  # addresses of the lab: ours are all on loopback
                request["sdp"] = request["sdp"].replace("127.0.0.50", "127.0.0.1")
            body = encode(request) if form == "bencode" else json.dumps(request).encode()
            octets = server.message(b"%d %b" % (number, body), "opensips")
            assert octets is not None
            reply = octets.partition(b" ")[2]
            ours = plain(decode_dict(reply)) if form == "bencode" else json.loads(reply)
            theirs = exchange.reply
            assert ours["result"] == theirs["result"], (request, ours)
            assert covers(shape(ours), shape(theirs)) == [], request["command"]
            if "to-tag" in theirs:
                tags[theirs["to-tag"]] = ours["to-tag"]
                assert ours["from-tags"] == theirs["from-tags"]
                check_labels(ours, theirs)
            if "sdp" in theirs:
                assert [(m.kind, bool(m.port), m.formats) for m in sdp.parse(ours["sdp"].encode()).media] == [
                    (m.kind, bool(m.port), m.formats) for m in sdp.parse(theirs["sdp"].encode()).media
                ]
        assert all(call.subscriptions == {} for call in server.calls.values())


def check_labels(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Each m-line has a label that says whose it is, by both of the keys; the streams are the same."""
    lines = sdp.parse(ours["sdp"].encode()).media
    labels = [line.label for line in lines]
    assert len(set(labels)) == len(lines)
    assert set(ours["media-labels"]) == set(labels)
    listed = {
        media["label"]: (party["tag"], media["index"], media["type"], media["mode"])
        for party in ours["tag-medias"]
        for media in party["medias"]
    }
    named = {
        label: (said["tag"], said["index"], said["type"], said["mode"]) for label, said in ours["media-labels"].items()
    }
    assert listed == named
    wanted = sorted((said["tag"], said["index"], said["type"]) for said in theirs["media-labels"].values())
    assert sorted(each[:3] for each in named.values()) == wanted
