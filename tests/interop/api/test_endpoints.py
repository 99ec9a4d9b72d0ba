"""Every endpoint of the API against a live proxy with a call in progress."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from siprec.api import model
from siprec.api.problem import ProblemDetails
from siprec.api.routes import OPERATIONS
from siprec.cli.phone import PhoneError
from tests.interop.api.apiworld import Reply, client, phones, proxy, recorder, until, until_reply


def checked(reply: Reply, kind: type[msgspec.Struct], status: int = 200) -> Any:
    """A reply of the documented type, with no key beside it."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    value = msgspec.json.decode(reply.body, type=kind)
    assert msgspec.to_builtins(value) == reply.json
    return value


def problem(reply: Reply, status: int) -> str:
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    details = msgspec.json.decode(reply.body, type=ProblemDetails)
    assert details.status == status
    return details.detail


def test_a_call_and_its_recording_are_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process, phones(process) as (alice, _):
            api = client(process)
            assert checked(await api.get("/calls"), model.Calls) == model.Calls(calls=[], total=0)
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active") == 1)

            [call] = checked(await api.get("/calls"), model.Calls).calls
            assert (call.state, call.recordings, call.media) == ("confirmed", ["default"], "embedded")
            assert call.caller == "sip:alice@example.test"
            for query, count in (
                (f"call_id={call.call_id}", 1),
                ("call_id=other", 0),
                ("user=bob", 1),
                ("user=BOB@example.test", 1),
                ("user=carol", 0),
                ("state=confirmed", 1),
                ("state=early", 0),
                ("user=alice&state=confirmed", 1),
            ):
                assert len(checked(await api.get(f"/calls?{query}"), model.Calls).calls) == count, query

            detail = checked(await api.get(f"/calls/{call.dlg_id}"), model.CallDetail)
            [recording] = detail.recording
            assert recording.state == "active"
            assert (recording.server, recording.servers) == (srs, [srs])
            assert [(stream.label, stream.party) for stream in recording.streams] == [("1", "caller"), ("2", "callee")]
            assert [attempt.result for attempt in recording.attempts] == ["established"]

            async def look() -> model.Recording:
                path = f"/recordings/{call.dlg_id}/default"
                found: model.Recording = checked(await api.get(path), model.Recording)
                return found

            def flows(recording: model.Recording) -> bool:
                counters = [stream.counters for stream in recording.streams]
                return all(c is not None and (c.packets or 0) > 50 and (c.receiver_reports or 0) > 0 for c in counters)

            seen = await until_reply(look, flows)
            for stream in seen.streams:
                assert stream.counters is not None
                assert stream.counters.lost_reported == 0
                assert stream.counters.endpoint.startswith("127.0.0.1:")
                assert stream.codecs == ["PCMU/8000"]

            for query, count in (("", 1), ("?state=active", 1), ("?state=paused", 0), ("?instance=other", 0)):
                listed = checked(await api.get(f"/recordings{query}"), model.Recordings)
                assert len(listed.recordings) == count, query
            [listed_one] = checked(await api.get("/recordings?statistics=true"), model.Recordings).recordings
            assert [stream.counters is not None for stream in listed_one.streams] == [True, True]

            [server] = checked(await api.get("/srs"), model.SrsList).srs
            assert (server.uri, server.state, server.active, server.established) == (srs, "up", 1, 1)
            assert server.profiles == ["default"]
            [media] = checked(await api.get("/media"), model.MediaList).media
            assert (media.name, media.kind, media.alive, media.calls) == ("embedded", "embedded", True, 1)
            assert media.load["calls"] == 1
            registered = checked(await api.get("/registrations"), model.Registrations)
            assert [each.aor for each in registered.registrations] == ["alice@", "bob@"]
            assert registered.total == 2
            assert checked(await api.get("/health/live"), model.Health).status == "ok"
            assert checked(await api.get("/health/ready"), model.Health).status == "ok"

            await alice.hang_up()
            await until(lambda: not process.recording.counts())
            assert checked(await api.get("/calls"), model.Calls).total == 0
            problem(await api.get(f"/calls/{call.dlg_id}"), 404)
            problem(await api.get(f"/recordings/{call.dlg_id}/default"), 404)

    asyncio.run(scenario())


def test_a_recording_is_paused_resumed_stopped_and_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process, phones(process) as (alice, _):
            api = client(process)
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active") == 1)
            [call] = (await api.get("/calls")).json["calls"]

            async def look() -> Any:
                return (await api.get(f"/recordings/{call['dlg_id']}/default")).json

            paused = checked(await api.post("/siprec_pause_recording", dlg_id=call["dlg_id"]), model.Outcomes)
            assert [result.done for result in paused.results] == [True]
            seen = await until_reply(
                look, lambda r: r.get("state") == "paused" and r["streams"][0]["counters"]["paused"]
            )
            assert len(seen["pauses"]) == 1
            assert seen["pauses"][0]["end"] is None
            before = [stream["counters"]["packets"] for stream in seen["streams"]]

            checked(await api.post("/siprec_resume_recording", call_id=call["call_id"]), model.Outcomes)
            seen = await until_reply(
                look,
                lambda r: (
                    r["state"] == "active"
                    and all(s["counters"]["packets"] > n for s, n in zip(r["streams"], before, strict=True))
                ),
            )
            assert seen["pauses"][0]["end"] >= seen["pauses"][0]["start"]

            sent = await api.post("/siprec_send_indialog", user="alice", method="OPTIONS", timeout=10)
            [outcome] = checked(sent, model.Outcomes).results
            assert (outcome.done, outcome.status) == (True, 200)
            problem(await api.post("/siprec_send_indialog", user="alice", method="BYE"), 409)
            for evil in (
                {"content_type": "text/plain\r\nX-Evil: 1", "body": "x"},
                {"content_type": "text/\x07plain"},
                {"headers": {"X-Note": "1\r\nX-Evil: 1"}},
                {"headers": {"X-Note\r\nX-Evil": "1"}},
                {"headers": {"X Note": "1"}},
            ):
                problem(await api.post("/siprec_send_indialog", user="alice", **evil), 422)

            checked(await api.post("/siprec_stop_recording", all=True), model.Outcomes)
            await until_reply(lambda: api.get("/recordings"), lambda r: not r.json["recordings"])
            assert (await api.get(f"/calls/{call['dlg_id']}")).json["state"] == "confirmed"
            assert "not recorded" in problem(await api.post("/siprec_pause_recording", all=True), 409)

            checked(await api.post("/siprec_start_recording", user="bob"), model.Outcomes)
            await until_reply(look, lambda r: r.get("state") == "active")
            twice = problem(await api.post("/siprec_start_recording", user="bob"), 409)
            assert "active" in twice
            assert "engaged already" in twice
            second = await api.post(
                "/siprec_start_recording", user="bob", instance="second", srs=srs, settings={"group": "sales"}
            )
            checked(second, model.Outcomes)
            await until(lambda: process.recording.counts().get("active") == 2)
            listed = (await api.get("/recordings?statistics=true")).json["recordings"]
            # Two subscriptions of one call: each recording shows its own.
            assert [each["instance"] for each in listed] == ["default", "second"]
            assert len({s["counters"]["endpoint"] for each in listed for s in each["streams"]}) == 4
            await alice.hang_up()
            await until(lambda: not process.recording.counts())

    asyncio.run(scenario())


def test_a_call_whose_media_passed_by_is_not_recorded_and_the_reason_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            recorder(tmp_path) as srs,
            proxy(tmp_path, srs, recorded=False, use="recorded") as process,
            phones(process) as (alice, _),
        ):
            api = client(process)
            await alice.dial("bob")
            await until(lambda: process.core.counts()["calls"] == 1)
            for arguments in ({}, {"srs": srs, "instance": "second"}, {"start": "early"}):
                reply = await api.post("/siprec_start_recording", all=True, **arguments)
                assert "no relay media" in problem(reply, 409)
            assert not process.recording.info()
            await alice.hang_up()

    asyncio.run(scenario())


def test_requests_that_make_no_sense_are_explained(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            api = client(process)
            assert "Give dlg_id" in problem(await api.post("/siprec_pause_recording"), 422)
            assert "no call fits" in problem(await api.post("/siprec_pause_recording", user="x"), 404)
            assert "sip: or sips:" in problem(await api.post("/siprec_start_recording", all=True, srs="http://x"), 422)
            assert "profiles: default" in problem(
                await api.post("/siprec_start_recording", all=True, instance="x"), 422
            )
            settings = await api.post("/siprec_start_recording", all=True, settings={"nonsense": "1"})
            assert "nonsense" in problem(settings, 422)
            assert "$.al" in problem(await api.post("/siprec_stop_recording", all="yes"), 422)
            assert "unknown field" in problem(await api.post("/siprec_stop_recording", every=True), 422)
            assert problem(await api.ask("POST", "/siprec_stop_recording", b"{"), 400)
            assert problem(await api.ask("POST", "/siprec_stop_recording", b" " * 70000), 413)
            plain = await api.ask("POST", "/siprec_stop_recording", {"all": True}, Content_Type="text/plain")
            assert "application/json" in problem(plain, 415)
            assert "limit" in problem(await api.get("/calls?limit=100000"), 422)
            assert "unknown field" in problem(await api.get("/calls?colour=red"), 422)
            assert "twice" in problem(await api.get("/calls?user=a&user=b"), 422)
            assert "after" in problem(await api.get("/calls?after=x"), 422)
            assert "E_SIPREC_START" in problem(await api.get("/events?event=E_NOTHING"), 422)
            assert "/openapi.json" in problem(await api.get("/nothing"), 404)
            reply = await api.ask("DELETE", "/calls")
            problem(reply, 405)
            assert "GET" in reply.headers["allow"]

    asyncio.run(scenario())


def test_draining_refuses_new_calls_and_lets_others_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            proxy(tmp_path, "sip:127.0.0.1:9", recorded=False) as process,
            phones(process) as (alice, bob),
            phones(process) as (carol, _),
        ):
            api = client(process)
            await alice.dial("bob")
            state = checked(await api.ask("PUT", "/drain", {"draining": True, "retry_after": 7}), model.Drain)
            assert state == model.Drain(draining=True, calls=1, refused=0)
            health = await api.get("/health/ready")
            assert (health.status, health.json) == (503, {"status": "draining"})
            assert (await api.get("/health/live")).status == 200
            with pytest.raises(PhoneError, match="503"):
                await carol.dial("bob")
            await alice.hang_up()
            await until(bob.ended_.done)
            assert bob.ended_.result() == "bye"
            assert checked(await api.get("/drain"), model.Drain) == model.Drain(draining=True, calls=0, refused=1)
            checked(await api.ask("PUT", "/drain", {"draining": False}), model.Drain)
            assert (await api.get("/health/ready")).status == 200

    asyncio.run(scenario())


def test_the_log_level_is_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            api = client(process)
            logger = logging.getLogger("siprec.proxy")
            before = logger.level
            try:
                body = {"level": "debug", "logger": "siprec.proxy"}
                told = checked(await api.ask("PUT", "/log-level", body), model.LogLevels)
                assert logger.level == logging.DEBUG
                assert told.levels["siprec.proxy"] == "debug"
                body["level"] = "inherit"
                assert checked(await api.ask("PUT", "/log-level", body), model.LogLevels).levels == {}
                assert logger.level == logging.NOTSET
            finally:
                logger.setLevel(before)
            assert checked(await api.get("/log-level"), model.LogLevels).level
            problem(await api.ask("PUT", "/log-level", {"level": "loud"}), 422)
            problem(await api.ask("PUT", "/log-level", {"level": "inherit"}), 422)
            problem(await api.ask("PUT", "/log-level", {"level": "debug", "logger": "asyncio"}), 422)

    asyncio.run(scenario())


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_metrics_follow_a_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            recorder(tmp_path) as srs,
            proxy(tmp_path, "sip:127.0.0.1:9", srs) as process,
            phones(process) as (alice, _),
        ):
            api = client(process)
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active") == 1)
            await until_reply(
                lambda: api.get("/recordings?statistics=true"),
                lambda r: all((s["counters"]["packets"] or 0) > 20 for s in r.json["recordings"][0]["streams"]),
            )
            reply = await api.get("/metrics")
            assert reply.headers["content-type"].startswith("text/plain")
            found = samples(reply.body.decode())
            assert found["siprec_calls{state=confirmed}"] == 1
            assert found[f"siprec_recordings{{srs={srs},state=active}}"] == 1
            assert found["siprec_srs_up{srs=sip:127.0.0.1:9}"] == 0
            assert found[f"siprec_srs_up{{srs={srs}}}"] == 1
            assert found["siprec_recording_events_total{event=E_SIPREC_FAILOVER,srs=sip:127.0.0.1:9}"] == 1
            assert found["siprec_recording_setup_seconds_count{}"] == 1
            assert found["siprec_media_up{server=embedded}"] == 1
            assert found["siprec_calls_created_total{}"] == 1
            assert found["siprec_call_replies_total{code=200}"] == 1
            assert found["siprec_registrations{}"] == 2
            await alice.hang_up()
            await until(lambda: not process.recording.counts())
            found = samples((await api.get("/metrics")).body.decode())
            assert found["siprec_calls{state=confirmed}"] == 0
            assert found["siprec_call_ends_total{reason=bye}"] == 1
            assert found[f"siprec_recording_events_total{{event=E_SIPREC_STOP,srs={srs}}}"] == 1
            assert found["process_open_fds{}"] > 0
            assert found["siprec_recorded_call_packets_total{what=forked}"] > 40
            assert found["siprec_recorded_call_packets_total{what=lost}"] == 0
            assert found["siprec_recorded_calls_uncounted_total{}"] == 0
            await until_reply(
                lambda: api.get("/metrics"),
                lambda r: samples(r.body.decode())["siprec_event_loop_lag_seconds_count{}"] > 0,
            )

    asyncio.run(scenario())


def test_every_operation_of_the_table_answers_and_is_described(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            api = client(process)
            document = (await api.get("/openapi.json")).json
            for operation in OPERATIONS:
                described = document["paths"][operation.path][operation.method.lower()]
                if operation.path == "/events":
                    continue  # goes on for ever; see test_events
                path = operation.path.replace("{dlg_id}", "x").replace("{instance}", "y")
                body = {"level": "info"} if "log" in path else {"draining": False}
                reply = await api.ask(operation.method, path, None if operation.body is None else body)
                assert str(reply.status) in described["responses"], (operation.path, reply.status, reply.body)
                kind = reply.headers["content-type"].partition(";")[0]
                assert kind in described["responses"][str(reply.status)]["content"], operation.path

    level = logging.getLogger().level
    try:
        asyncio.run(scenario())
    finally:
        logging.getLogger().setLevel(level)
