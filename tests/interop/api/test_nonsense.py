"""Whatever is sent to the API, it answers with what its document says, and the proxy goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec.api.routes import OPERATIONS
from tests.interop.api.apiworld import client, phones, proxy, until

WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None and operation.path != "/drain"]
NAMES = sorted({name for operation in WITH_BODY for name in getattr(operation.body, "__struct_fields__", ())})
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=30), st.just("alice"),
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3),
    st.lists(st.text(max_size=5), max_size=3),
)  # fmt: skip
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6).map(lambda body: json.dumps(body).encode()),
    st.fixed_dictionaries(
        {"all": st.just(True)},
        optional={
            "method": st.text(max_size=10),
            "headers": st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3),
            "body": st.text(max_size=50),
            "content_type": st.text(max_size=20),
            "srs": st.text(max_size=40),
            "settings": st.dictionaries(
                st.sampled_from(["caller", "headers", "socket", "media"]), st.text(max_size=30)
            ),
        },
    ).map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=60),
)
QUERIES = st.dictionaries(
    st.sampled_from(["user", "limit", "after", "state", "call_id", "statistics", "x"]), st.text(max_size=20), max_size=3
).map(lambda query: "&".join(f"{key}={quote(value)}" for key, value in query.items()))
GETS = ["/calls", "/recordings", "/registrations", "/srs", "/media", "/calls/x", "/recordings/x/y"]


def test_nonsense_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            proxy(tmp_path, "sip:127.0.0.1:9", recorded=False) as process,
            phones(process) as (alice, bob),
        ):
            api = client(process)
            loop = asyncio.get_running_loop()
            await alice.dial("bob")

            def wait(coroutine: Any) -> Any:
                return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

            @settings(
                deadline=None,
                max_examples=150,
                database=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            @given(operation=st.sampled_from(WITH_BODY), body=BODIES, path=st.sampled_from(GETS), query=QUERIES)
            def check(operation: Any, body: bytes, path: str, query: str) -> None:
                reply = wait(api.ask(operation.method, operation.path, body))
                assert reply.status in (200, 400, 404, 409, 422), (reply.body, body)
                reply = wait(api.get(f"{path}?{query}"))
                assert reply.status in (200, 404, 422), (reply.body, query)

            await asyncio.to_thread(check)
            assert len(process.core.calls) == 1
            await alice.hang_up()
            await until(bob.ended_.done)
            await until(lambda: not process.recording.counts())

    asyncio.run(scenario())
