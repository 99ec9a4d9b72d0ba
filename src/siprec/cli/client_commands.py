"""Commands that speak to a running proxy: look, steer, follow."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec
from urllib.parse import quote

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from siprec.cli.client import DEFAULT, ApiClient, ApiError
from siprec.cli.show import describe, time_of

Url = Annotated[str, Parameter(name="--api", env_var="SIPREC_API", help="Where the API is.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
CallName = Annotated[str, Parameter(help="Dialog id or Call-ID.")]
User = Annotated[str, Parameter(help="Calls of this user (or user@host).")]
All = Annotated[bool, Parameter(name="--all", negative="", help="Every call.")]
Name = Annotated[str, Parameter(name=["--instance", "-i"], help="Recording instance.")]

P = ParamSpec("P")


def register(app: App) -> None:
    """Add the commands to `app`."""
    for command in (ls, show, start, pause, resume, stop, srs, media, registrations, events, drain, reload, trace, top):
        app.command(command)


def _told(command: Callable[P, None]) -> Callable[P, int]:
    """An :class:`ApiError` becomes a line on standard error and exit status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            command(*args, **kwargs)
        except ApiError as error:
            print(f"siprec: {_clean(error)}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            # The reader of our output went away (head): nothing is left to be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            return 130
        return 0

    return run


def _clean(value: object) -> str:
    """Names come from the network: no control characters on the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(value))


def _dump(value: object) -> None:
    print(json.dumps(value), flush=True)


def _print(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_clean(value) for value in row))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000  # for programs and files: one line each
    if table.row_count:
        console.print(table)
    else:
        console.print(empty)


def _length(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@_told
def ls(*, user: User = "", state: str = "", limit: int = 100, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List calls, and what becomes of their recordings.

    Args:
        state: Only calls in this state: early or confirmed.
        limit: How many calls at the most.
    """
    client = ApiClient(api)
    calls = list(client.pages("/calls", "calls", limit, user=user, state=state))
    if json:
        _dump(calls)
        return
    states: dict[str, list[str]] = {}
    if any(call["recordings"] for call in calls):
        for each in client.pages("/recordings", "recordings", 10 * limit, user=user):
            states.setdefault(each["dlg_id"], []).append(f"{each['instance']}: {each['state']}")
    now = time.time()
    rows = [
        (
            call["dlg_id"],
            call["caller"],
            call["callee"],
            call["state"],
            _length(now - call["answer"]) if call["answer"] else "-",
            ", ".join(states.get(call["dlg_id"], ())) or "-",
        )
        for call in calls
    ]
    _print(("ID", "CALLER", "CALLEE", "STATE", "TIME", "RECORDINGS"), rows, "no calls")


def _find(client: ApiClient, name: str) -> dict[str, Any]:
    if "/" not in name and "?" not in name and "@" not in name:
        try:
            found: dict[str, Any] = client.get(f"/calls/{name}")
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            return found
    for call in client.pages("/calls", "calls", 1, call_id=name):
        detail: dict[str, Any] = client.get(f"/calls/{call['dlg_id']}")
        return detail
    raise ApiError(f"no call {name!r}; `siprec ls` lists them")


@_told
def show(call: CallName, *, api: Url = DEFAULT, json: AsJson = False) -> None:
    """Show one call and its recordings: streams, packets, attempts, pauses."""
    found = _find(ApiClient(api), call)
    if json:
        _dump(found)
        return
    print("\n".join(_clean(line) for line in describe(found)))


def _steer(function: str, call: str, user: str, every: bool, api: str, as_json: bool, **more: object) -> None:
    client = ApiClient(api)
    body: dict[str, object] = {"user": user, **({"all": True} if every else {}), **more}
    if call:
        body["dlg_id"] = _find(client, call)["dlg_id"]
    if not (call or user or every):
        raise ApiError("which call? Give its id (`siprec ls`), --user, or --all")
    results = client.send("POST", f"/{function}", body)["results"]
    if as_json:
        _dump(results)
        return
    for result in results:
        outcome = result["state"] or "done"
        print(
            f"{_clean(result['dlg_id'])} {_clean(result['instance'])}: {outcome if result['done'] else 'not possible'}"
        )


@_told
def start(
    call: CallName = "",
    *,
    srs: str = "",
    user: User = "",
    all: All = False,
    instance: Name = "default",
    begin: Literal["", "answer", "early"] = "",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Begin to record a call.

    Args:
        srs: SRS URIs separated by commas; without, those of the profile.
        begin: when, if the call is not answered yet; without, as the profile says.
    """
    _steer("siprec_start_recording", call, user, all, api, json, instance=instance, srs=srs, start=begin)


@_told
def pause(
    call: CallName = "",
    *,
    user: User = "",
    all: All = False,
    instance: Name = "default",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Withhold the media of a recording."""
    _steer("siprec_pause_recording", call, user, all, api, json, instance=instance)


@_told
def resume(
    call: CallName = "",
    *,
    user: User = "",
    all: All = False,
    instance: Name = "default",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Go on after a pause."""
    _steer("siprec_resume_recording", call, user, all, api, json, instance=instance)


@_told
def stop(
    call: CallName = "",
    *,
    user: User = "",
    all: All = False,
    instance: Name = "default",
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """End a recording; the call goes on."""
    _steer("siprec_stop_recording", call, user, all, api, json, instance=instance)


@_told
def srs(*, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List session recording servers and their health."""
    found = ApiClient(api).get("/srs")["srs"]
    if json:
        _dump(found)
        return
    rows = [
        (
            each["uri"],
            each["state"],
            each["active"],
            each["established"],
            each["failed"],
            f"{each['status'] or ''} {each['reason']}".strip() or "-",
        )
        for each in found
    ]
    _print(("SRS", "STATE", "ACTIVE", "ESTABLISHED", "FAILED", "LAST FAILURE"), rows, "no SRS is configured")


@_told
def media(*, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List media servers and their load."""
    found = ApiClient(api).get("/media")["media"]
    if json:
        _dump(found)
        return
    rows = [
        (
            each["name"],
            each["kind"],
            each["set"],
            ("draining" if each["draining"] else "up") if each["alive"] else f"down: {each['error']}",
            each["calls"],
            "-" if each["round_trip"] is None else f"{each['round_trip'] * 1000:.1f} ms",
            each["restarts"],
        )
        for each in found
    ]
    _print(("MEDIA SERVER", "KIND", "SET", "STATE", "CALLS", "ROUND TRIP", "RESTARTS"), rows, "no media server")


@_told
def registrations(*, limit: int = 1000, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List phones that are registered.

    Args:
        limit: How many at the most.
    """
    found = list(ApiClient(api).pages("/registrations", "registrations", limit))
    if json:
        _dump(found)
        return
    rows = [(each["aor"], each["contact"], f"{each['expires']} s", each["user_agent"]) for each in found]
    _print(("USER", "CONTACT", "EXPIRES", "USER AGENT"), rows, "nobody is registered")


@_told
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
        _dump(value)
        return
    why = f"{value['status'] or ''} {value['reason']}".strip()
    words = (time_of(value["time"]), value["event"], value["dlg_callid"], value["instance"], value["server"], why)
    print(" ".join(_clean(word) for word in words if word), flush=True)


@_told
def drain(
    *,
    off: Annotated[bool, Parameter(name="--off", negative="", help="Take calls again.")] = False,
    retry_after: int = 30,
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """Refuse new calls with 503; those that exist go on.

    Args:
        retry_after: Seconds that callers are told to wait.
    """
    found = ApiClient(api).send("PUT", "/drain", {"draining": not off, "retry_after": retry_after})
    if json:
        _dump(found)
    else:
        print(f"{'draining' if found['draining'] else 'taking calls'}, calls left: {found['calls']}")


@_told
def reload(*, api: Url = DEFAULT, json: AsJson = False) -> None:
    """Read the configuration and the routing script again, as SIGHUP does; calls go on."""
    found = ApiClient(api).send("POST", "/reload", {})
    if json:
        _dump(found)
        return
    print(f"in effect: {', '.join(found['changed']) or 'nothing new'}")
    if found["restart"]:
        print(f"after a restart: {', '.join(found['restart'])}")


@_told
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
    if pcap is not None:
        octets = ApiClient(api).octets(path, format="pcap")
        try:
            with open(os.open(pcap, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(octets)
        except OSError as error:
            raise ApiError(f"{pcap}: {error.strerror}") from None
    elif json:
        _dump(ApiClient(api).get(path))
    else:
        print(ApiClient(api).octets(path, format="full" if verbose else "text").decode("utf-8", "replace"), end="")


@_told
def top(*, api: Url = DEFAULT) -> None:
    """Calls and their recordings as they go, on the whole terminal; ? tells the keys."""
    from siprec.cli.top.app import run

    run(api)
