"""Commands that speak to a running proxy: follow it, and look after it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from siprec.cli.call_text import time_of
from siprec.cli.client import DEFAULT, ApiClient, ApiError
from siprec.cli.commands import AsJson, Url, clean, dump, report_errors


def register(app: App) -> None:
    """Add the commands to `app`."""
    for command in (events, drain, reload, trace, top):
        app.command(command)
    app.command(log_level, name="log-level")


@report_errors
def events(
    *,
    event: str = "",
    call_id: str = "",
    count: int = 0,
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Follow events as they happen.

    Args:
        event: Only these, separated by commas (E_SIPREC_START,E_SIPREC_STOP).
        call_id: Only of this call.
        count: End after so many; 0: go on.
    """
    client = ApiClient(api)
    last, seen, lost_at = "", 0, 0.0
    while True:
        try:
            for identifier, value in client.events(last, event=event, call_id=call_id):
                last = identifier
                _show_event(value, json)
                seen += 1
                if seen == count:
                    return
        except ApiError as error:
            # The first connection has to work; one that was lost is taken up again for a minute.
            if not lost_at or error.status or time.monotonic() - lost_at > 60:
                raise
        else:
            lost_at = time.monotonic()
        time.sleep(1)


def _show_event(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        dump(value)
        return
    why = f"{value['status'] or ''} {value['reason']}".strip()
    words = (time_of(value["time"]), value["event"], value["dlg_callid"], value["instance"], value["server"], why)
    print(" ".join(clean(word) for word in words if word), flush=True)


@report_errors
def drain(
    *,
    off: Annotated[bool, Parameter(name="--off", negative="", help="Take calls again.")] = False,
    retry_after: int = 30,
    media: str = "",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Refuse new calls with 503, or give one media server none; those that exist go on.

    Args:
        retry_after: Seconds that callers are told to wait.
        media: Name of a media server: new calls go to others.
    """
    if media:
        servers = ApiClient(api).send("PUT", "/media", {"name": media, "draining": not off})["media"]
        [one] = [each for each in servers if each["name"] == media]
        if json:
            dump(one)
        else:
            print(f"{media}: {'draining' if one['draining'] else 'taking calls'}, calls: {one['calls']}")
        return
    found = ApiClient(api).send("PUT", "/drain", {"draining": not off, "retry_after": retry_after})
    if json:
        dump(found)
    else:
        print(f"{'draining' if found['draining'] else 'taking calls'}, calls left: {found['calls']}")


@report_errors
def reload(*, force: bool = False, api: Url = DEFAULT, json: AsJson = False) -> None:
    """Read the configuration and the routing script again, as SIGHUP does; calls go on.

    Args:
        force: Take also a file that has none of the routes and recording profiles in use.
    """
    found = ApiClient(api).send("POST", "/reload", {"force": True} if force else {})
    if json:
        dump(found)
        return
    print(f"in effect: {', '.join(found['changed']) or 'nothing new'}")
    if found["restart"]:
        print(f"after a restart: {', '.join(found['restart'])}")


@report_errors
def trace(
    call: Annotated[str, Parameter(help="Dialog id, or Call-ID of the call or of its recording session.")],
    *,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="", help="With the messages.")] = False,
    pcap: Annotated[Path | None, Parameter(help="Write a capture file for Wireshark instead.")] = None,
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Show the ladder of a call: its messages, those of its recording sessions, and the media commands.

    Also of calls that are over, as long as their messages are kept ([trace] megabytes).
    """
    path = f"/calls/{quote(call, safe='')}/trace"
    try:
        _trace(ApiClient(api), path, verbose, pcap, json)
    except ApiError as error:
        if error.status == 404 and "such a call" in str(error):
            lists = "`siprec ls` lists those that go on, and of those that are over"
            raise ApiError(f"{error}: {lists} the newest are kept ([trace] megabytes)", 404) from None
        raise


def _trace(client: ApiClient, path: str, verbose: bool, pcap: Path | None, json: bool) -> None:
    if pcap is not None:
        octets = client.octets(path, format="pcap")
        try:
            with open(os.open(pcap, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(octets)
        except OSError as error:
            raise ApiError(f"{pcap}: {error.strerror}") from None
    elif json:
        dump(client.get(path))
    else:
        print(client.octets(path, format="full" if verbose else "text").decode("utf-8", "replace"), end="")


@report_errors
def top(*, api: Url = DEFAULT) -> None:
    """Calls and their recordings as they go, on the whole terminal; ? tells the keys."""
    from siprec.cli.top.app import run

    run(api)


@report_errors
def log_level(
    level: Literal["", "debug", "info", "warning", "error", "critical", "inherit"] = "",
    *,
    room: str = "",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Show the log levels, or change one until the next restart.

    Args:
        level: The new one; inherit: as the room above it.
        room: Only of this part, such as siprec.recording; without: of all that have no level of their own.
    """
    client = ApiClient(api)
    if level:
        found = client.send("PUT", "/log-level", {"level": level, "logger": room})
    elif room:
        raise ApiError(f"which level for {room}? siprec log-level debug --room {room}")
    else:
        found = client.get("/log-level")
    if json:
        dump(found)
        return
    print(found["level"])
    for name, own in found["levels"].items():
        print(f"{clean(name)}: {own}")
