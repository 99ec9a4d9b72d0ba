"""The recorder's own API, while it records a call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from siprec.api import recorder_model
from siprec.api.recorder import OPERATIONS
from tests.interop.api.apiworld import CONTROL, HOST, READ, Client, phones, proxy, recorder_process, until_reply

LISTEN = "listen-token-0123456789"
API = f"""
[recorder.api]
listen = "{HOST}:0"
tokens = {{ "{READ}" = "read", "{LISTEN}" = "listen", "{CONTROL}" = "control" }}
"""


def test_sessions_library_health_and_metrics_of_a_recorder(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder_process(tmp_path, API) as child:
            address = child.address("http")
            reader, listener = Client(address, READ), Client(address, LISTEN)
            assert (await Client(address).get("/sessions")).status == 401
            assert (await Client(address).get("/health/live")).status == 200
            ready = await Client(address).get("/health/ready")
            assert (ready.status, ready.json["status"]) == (200, "ok")
            assert ready.json["free"] > 0
            assert b'data-part="recorder"' in (await Client(address).get("/")).body
            described = (await Client(address).get("/openapi.json")).json["paths"]
            assert set(described) == {operation.path for operation in OPERATIONS}
            assert (await reader.get("/sessions")).json == {"sessions": [], "total": 0, "limit": 1000, "next": ""}
            assert (await reader.get("/calls")).status == 404

            async with proxy(tmp_path, f"sip:{HOST}:{child.address()[1]}") as process, phones(process) as (alice, _):
                await alice.dial("bob")
                reply = await until_reply(
                    lambda: reader.get("/sessions"),
                    lambda found: (
                        found.json["total"] and all(s["packets"] for s in found.json["sessions"][0]["streams"])
                    ),
                )
                [session] = msgspec.json.decode(reply.body, type=recorder_model.RecorderSessions, strict=True).sessions
                [recording] = process.recording.info()
                assert session.call_id == recording.callid
                assert sorted(session.parties) == ["Alice", "sip:bob@example.test"]
                assert [(s.kind, s.receiving, s.lost) for s in session.streams] == [("audio", True, 0)] * 2
                assert {s.label for s in session.streams} == {"1", "2"}
                assert all(s.silent is not None and s.silent < 20 for s in session.streams)
                one = await reader.get(f"/sessions/{session.call_id}")
                assert one.json["recordings"] == session.recordings
                text = (await reader.get("/metrics")).body.decode()
                assert "siprec_recorder_sessions 1.0" in text
                assert "siprec_recorder_streams 2.0" in text
                assert (await reader.get("/sessions/nobody")).status == 404
                await alice.hang_up()

            await until_reply(lambda: reader.get("/sessions"), lambda found: found.json["total"] == 0)
            page = await until_reply(
                lambda: reader.get("/library"), lambda found: found.json["recordings"][0]["state"] == "complete"
            )
            [kept] = page.json["recordings"]
            assert [kept["id"]] == session.recordings
            assert (await reader.get(f"/library/{kept['id']}/files/mix.wav")).status == 403
            assert (await listener.get(f"/library/{kept['id']}/files/mix.wav")).body[:4] == b"RIFF"
            text = (await reader.get("/metrics")).body.decode()
            assert "siprec_recorder_sessions_accepted_total 1.0" in text
            assert "siprec_recorder_recordings_total 1.0" in text
            packets = next(line for line in text.splitlines() if line.startswith("siprec_recorder_packets_total"))
            assert float(packets.split()[1]) > 1
            assert (await reader.ask("PUT", "/log-level", {"level": "debug"})).status == 403
            changed = await Client(address, CONTROL).ask(
                "PUT", "/log-level", {"level": "debug", "logger": "siprec.net"}
            )
            assert changed.json["levels"] == {"siprec.net": "debug"}

    asyncio.run(scenario())


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder_process(tmp_path, f'[recorder.api]\nlisten = "{HOST}:0"\nmin_free = 1000000000') as child:
            ready = await Client(child.address("http")).get("/health/ready")
            assert (ready.status, ready.json["status"]) == (503, "no disk space")

    asyncio.run(scenario())
