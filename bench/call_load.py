"""SIPp as the load of bench/calls.py: scenarios, its statistics, and the search for the highest clean rate."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Sipp, free_port, until
from tests.interop.calls.scenarios import Scenario

_SOCKET_BUFFER = ("-buff_size", "2000000")  # what SIPp itself drops would look like a loss of the proxy


@dataclass(frozen=True, slots=True)
class Load:
    """How one run of calls went, over all the SIPp that took part.

    `rate` is calls per second as they were really placed. `failed` is of the side that saw most failures, where a
    recording that the SRS never got is one; `retransmitted` is the sum of the sides.
    """

    calls: int
    succeeded: int
    failed: int
    retransmitted: int
    rate: float

    @property
    def clean(self) -> bool:
        """Every call succeeded, and no message had to be sent twice."""
        return self.succeeded == self.calls and not self.failed and not self.retransmitted


def parse_statistics(text: str) -> dict[str, str]:
    """The last whole row of SIPp's ``-trace_stat`` file, by column; empty when there is none yet.

    SIPp writes a row a second, so the last one may be cut when the file is read meanwhile.
    """
    rows = text.split("\n")[:-1]
    if len(rows) < 2:
        return {}
    return dict(zip(rows[0].split(";"), rows[-1].split(";"), strict=False))


def statistic(row: Mapping[str, str], name: str) -> int:
    """A cumulative counter such as ``FailedCall`` or ``Retransmissions``; 0 before the first row."""
    return int(row.get(f"{name}(C)", 0))


def highest_clean(clean: Callable[[float], bool], *, start: float, limit: float, precision: float = 0.1) -> float:
    """The highest rate of which `clean` says true: doubling, or halving, from `start`, then bisection.

    Args:
        clean: runs calls at a rate in calls/s. It is asked at most some 15 times.
        limit: the highest rate to try, in calls/s.
        precision: ends the bisection, as a share of the rate found.

    Returns:
        0.0 when not even `start` / 64 is clean.
    """
    low, high = 0.0, 0.0
    rate = min(start, limit)
    while not high:
        if clean(rate):
            low = rate
            if rate >= limit:
                return limit
            rate = min(rate * 2, limit)
        else:
            high = rate
    while not low:
        rate = high / 2
        if rate < start / 64:
            return 0.0
        if clean(rate):
            low = rate
        else:
            high = rate
    while high - low > precision * low:
        middle = (low + high) / 2
        if clean(middle):
            low = middle
        else:
            high = middle
    return low


def srs_scenario() -> Scenario:
    """An SRS: takes the offer of two streams, later metadata by UPDATE or re-INVITE, and the BYE."""
    srs = Scenario("recording server")
    streams = "".join(
        f"\nm=audio [auto_media_port{offset}] RTP/AVP 0\na=rtpmap:0 PCMU/8000\na=label:{label}\na=recvonly"
        for label, offset in ((1, ""), (2, "+2"))
    )
    body = f"v=0\no=- 42 1 IN IP[local_ip_type] [local_ip]\ns=-\nc=IN IP[media_ip_type] [media_ip]\nt=0 0{streams}"

    def answer(sdp: str, tag: str, options: str = "") -> None:
        head = ["SIP/2.0 200 OK", "[last_Via:]", "[last_From:]", f"[last_To:]{tag}", "[last_Call-ID:]", "[last_CSeq:]"]
        head.append("Contact: <sip:[local_ip]:[local_port];transport=[transport]>;+sip.srs")
        srs._send(head, sdp, options)

    def step(text: str) -> None:
        srs.steps.append(text)

    step('<recv request="INVITE"/>')
    answer(body, ";tag=[pid]Srs[call_number]", 'retrans="500"')
    step('<recv request="ACK"/>')
    step('<label id="1"/>')
    step('<recv request="UPDATE" optional="true" next="2"/>')
    step('<recv request="INVITE" optional="true" next="3"/>')
    step('<recv request="ACK" optional="true" next="1"/>')
    step('<recv request="BYE" next="4"/>')
    step('<label id="2"/>')
    answer("", "", 'next="1"')
    step('<label id="3"/>')
    answer(body.replace("- 42 1 ", "- 42 2 "), "", 'next="1"')
    step('<label id="4"/>')
    answer("", "")
    return srs


def start_srs(directory: Path, port: int, *, seconds: float) -> Sipp:
    """SIPp as SRS by TCP at `port`, for `seconds` at the most."""
    return Sipp(
        srs_scenario(), directory, port=port, calls=10_000_000, transport="t1", trace=False, limit=seconds,
        options=_SOCKET_BUFFER,
    )  # fmt: skip


def place_calls(
    directory: Path,
    *,
    proxy: int,
    callee: int,
    user: str,
    calls: int,
    rate: float,
    hold: float,
    established: Callable[[], object] | None = None,
    srs: Sipp | None = None,
) -> Load:
    """Have SIPp call SIPp through the `proxy` port.

    Args:
        directory: an empty one.
        callee: the port where the callee answers.
        hold: length of a call in seconds.
        established: called once, when all the calls are up.
        srs: whose failures and retransmissions count too.
    """
    before = parse_statistics(srs.statistics_text()) if srs is not None else {}
    limit = calls / rate + hold + 12
    common = {"calls": calls, "trace": False, "limit": limit, "options": _SOCKET_BUFFER}
    answering = Sipp(scenarios.callee(), directory / "callee", port=callee, **common)  # type: ignore[arg-type]
    with answering:
        until(lambda: answering.statistics_text() != "", 10)
        start = time.monotonic()
        calling = Sipp(
            scenarios.caller(hold), directory / "caller", port=free_port(), proxy=proxy, service=user, rate=rate,
            **common,  # type: ignore[arg-type]
        )  # fmt: skip
        with calling:
            if established is not None:
                time.sleep(max(0.0, calls / rate + hold - 2))
                established()
            for side, patience in ((calling, limit + 20), (answering, 8.0)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    side.finish(patience, check=False)
                if side is calling:
                    took = time.monotonic() - start - hold
    rows = [parse_statistics(side.statistics_text()) for side in (calling, answering)]
    failed = [statistic(row, "FailedCall") for row in rows]
    resent = [statistic(row, "Retransmissions") for row in rows]
    if srs is not None:
        time.sleep(1.1)  # for the row of this second
        after = parse_statistics(srs.statistics_text())
        failed.append(calls - statistic(after, "SuccessfulCall") + statistic(before, "SuccessfulCall"))
        resent.append(statistic(after, "Retransmissions") - statistic(before, "Retransmissions"))
    return Load(calls, statistic(rows[0], "SuccessfulCall"), max(failed), sum(resent), calls / took)


__all__ = ["HOST", "Load", "highest_clean", "parse_statistics", "place_calls", "srs_scenario", "start_srs", "statistic"]
