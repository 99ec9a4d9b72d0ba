"""SIPp's own caller against a small UAS right on the transport, over UDP and TCP."""

from __future__ import annotations

import asyncio
import shutil
import tempfile

import pytest
import uvloop

from siprec.net.transport import SocketTransport
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop

CALLS = 200


@pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not installed (apt-get install sip-tester)")
@pytest.mark.parametrize(("transport_name", "mode"), [("udp", "u1"), ("tcp", "t1"), ("tcp", "tn")])
def test_sipp_calls_us(transport_name: str, mode: str) -> None:
    """Every call of SIPp's built-in `uac` scenario is answered, acknowledged and ended."""

    async def main() -> None:
        transport = SocketTransport()
        methods: dict[str, int] = {}

        def answer(message: SipRequest | SipResponse, hop: Hop) -> None:
            assert isinstance(message, SipRequest)
            methods[message.method] = methods.get(message.method, 0) + 1
            if message.method != "ACK":
                contact = ("Contact", f"<sip:uas@127.0.0.1:{hop.local[1]};transport={hop.transport}>")
                response = message.response(200, to_tag="uas", headers=[contact])
                transport.send(response.to_bytes(), hop)

        transport.on_message = answer
        (listener,) = await transport.listen(f"{transport_name}:127.0.0.1:0")
        with tempfile.TemporaryDirectory() as directory:
            sipp = await asyncio.create_subprocess_exec(
                *("sipp", "-sn", "uac", "-t", mode, f"127.0.0.1:{listener.address.port}", "-i", "127.0.0.1"),
                *("-m", str(CALLS), "-r", "200", "-d", "10", "-nostdin", "-timeout", "60", "-timeout_error"),
                *("-max_socket", "500"),
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                _, errors = await asyncio.wait_for(sipp.communicate(), 90)
            finally:
                if sipp.returncode is None:
                    sipp.kill()
                    await sipp.wait()
        assert sipp.returncode == 0, errors.decode()
        assert methods["BYE"] >= CALLS
        assert methods["ACK"] >= CALLS
        assert transport.counters.malformed == 0
        await transport.close()

    uvloop.run(main())
