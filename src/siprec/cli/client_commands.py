"""Commands that speak to a running proxy: look, steer, follow."""

from __future__ import annotations

import time
from typing import Any, Final, Literal

from cyclopts import App

from siprec.cli.call_text import describe
from siprec.cli.client import DEFAULT, ApiClient, ApiError
from siprec.cli.commands import All, AsJson, CallName, Limit, Name, Url, User, clean, dump, print_table, report_errors

SHORTEST = 4
"""Characters of a dialog id or Call-ID that stand for the whole, where only one call begins like that."""


def register(app: App) -> None:
    """Add the commands to `app`."""
    for command in (ls, show, start, pause, resume, stop, srs, media, registrations):
        app.command(command)


def _length(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@report_errors
def ls(
    *,
    user: User = "",
    state: Literal["", "early", "confirmed"] = "",
    limit: Limit = 100,
    api: Url = DEFAULT,
    json: AsJson = False,
) -> None:
    """List calls, and what becomes of their recordings.

    Args:
        state: Only calls in this state.
        limit: How many calls at the most.
    """
    client = ApiClient(api)
    calls = list(client.pages("/calls", "calls", limit, user=user, state=state))
    if json:
        dump(calls)
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
    print_table(("ID", "CALLER", "CALLEE", "STATE", "TIME", "RECORDINGS"), rows, "no calls")


def _find(client: ApiClient, name: str) -> dict[str, Any]:
    if not name:
        raise ApiError("which call? `siprec ls` lists them")
    if "/" not in name and "?" not in name and "@" not in name:
        try:
            found: dict[str, Any] = client.get(f"/calls/{name}")
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            return found
    found_ids = [call["dlg_id"] for call in client.pages("/calls", "calls", 10, call_id=name)]
    if not found_ids and len(name) >= SHORTEST:
        found_ids = [
            call["dlg_id"]
            for call in client.pages("/calls", "calls", 5000)
            if call["dlg_id"].startswith(name) or call["call_id"].startswith(name)
        ]
    if len(found_ids) > 1:
        raise ApiError(
            f"{name!r} fits {len(found_ids)} calls: {', '.join(found_ids[:5])}{'...' * (len(found_ids) > 5)}"
        )
    if not found_ids:
        raise ApiError(f"no call {name!r}; `siprec ls` lists them, `siprec audit` tells of those that are over")
    detail: dict[str, Any] = client.get(f"/calls/{found_ids[0]}")
    return detail


@report_errors
def show(call: CallName, *, api: Url = DEFAULT, json: AsJson = False) -> None:
    """Show one call and its recordings: streams, packets, attempts, pauses."""
    found = _find(ApiClient(api), call)
    if json:
        dump(found)
        return
    print("\n".join(clean(line) for line in describe(found)))


_UNDER_WAY: Final = {
    "siprec_pause_recording": ("paused", "is being paused"),
    "siprec_resume_recording": ("active", "goes on"),
    "siprec_stop_recording": ("done", "is being stopped"),
}


def _steer(function: str, call: str, user: str, every: bool, api: str, as_json: bool, **more: object) -> None:
    client = ApiClient(api)
    body: dict[str, object] = {"user": user, **({"all": True} if every else {}), **more}
    if call:
        body["dlg_id"] = _find(client, call)["dlg_id"]
    if not (call or user or every):
        raise ApiError("which call? Give its id (`siprec ls`), --user, or --all")
    try:
        results = client.send("POST", f"/{function}", body)["results"]
    except ApiError as error:
        if error.status == 404:
            raise ApiError(f"{error}; `siprec ls` lists the calls there are", 404) from None
        raise
    if as_json:
        dump(results)
        return
    for result in results:
        outcome = result["state"] or "done"
        reached, underway = _UNDER_WAY.get(function, (outcome, outcome))
        if outcome != reached:  # the SRS is asked first, the answer of the API does not wait for it
            outcome = underway
        print(f"{clean(result['dlg_id'])} {clean(result['instance'])}: {outcome if result['done'] else 'not possible'}")


@report_errors
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


@report_errors
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


@report_errors
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


@report_errors
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


@report_errors
def srs(*, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List session recording servers and their health."""
    found = ApiClient(api).get("/srs")["srs"]
    if json:
        dump(found)
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
    print_table(("SRS", "STATE", "ACTIVE", "ESTABLISHED", "FAILED", "LAST FAILURE"), rows, "no SRS is configured")


@report_errors
def media(*, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List media servers and their load."""
    found = ApiClient(api).get("/media")["media"]
    if json:
        dump(found)
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
    print_table(("MEDIA SERVER", "KIND", "SET", "STATE", "CALLS", "ROUND TRIP", "RESTARTS"), rows, "no media server")


@report_errors
def registrations(*, limit: Limit = 1000, api: Url = DEFAULT, json: AsJson = False) -> None:
    """List phones that are registered.

    Args:
        limit: How many at the most.
    """
    found = list(ApiClient(api).pages("/registrations", "registrations", limit))
    if json:
        dump(found)
        return
    rows = [(each["aor"], each["contact"], f"{each['expires']} s", each["user_agent"]) for each in found]
    print_table(("USER", "CONTACT", "EXPIRES", "USER AGENT"), rows, "nobody is registered")
