"""SIPREC in Python: a SIP proxy that has calls recorded, a media relay, and a recorder.

What a routing script needs is here: ``from siprec import Call, RecordingEvent, Reply, Request, extension``. It is
loaded on first use, so that the parts below the proxy do not drag the proxy in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siprec.proxy.call import Call as Call
    from siprec.proxy.script import NotAuthenticated as NotAuthenticated
    from siprec.proxy.script import Reply as Reply
    from siprec.proxy.script import Request as Request
    from siprec.recording.script_events import RecordingEvent as RecordingEvent
    from siprec.recording.xmlcheck import extension as extension

__version__ = "0.1.0"
__all__ = ["Call", "NotAuthenticated", "RecordingEvent", "Reply", "Request", "__version__", "extension"]


def __getattr__(name: str) -> object:
    if name == "Call":
        from siprec.proxy.call import Call

        return Call
    if name in ("NotAuthenticated", "Request", "Reply"):
        from siprec.proxy import script

        return getattr(script, name)
    if name == "RecordingEvent":
        from siprec.recording.script_events import RecordingEvent

        return RecordingEvent
    if name == "extension":
        from siprec.recording.xmlcheck import extension

        return extension
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
