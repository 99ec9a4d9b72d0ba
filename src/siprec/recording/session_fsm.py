"""The three machines of a recording session as tables (RFC 7866 6.1, 9; RFC 3261 9, 14, 15).

An event passes fork, dialog and exchange in this order. What the guards and actions do is in
:mod:`siprec.recording.session_machine`: the method of each has its name.
"""

from __future__ import annotations

from typing import Final

from siprec.sip.fsm import Machine, rows

FORK: Final = Machine(
    "Recording session: fork",
    """
The copies that the media server makes of the call's streams. *copy* comes from the other machines: another dialog needs
another description. After *stop* the session is *ending*, and nothing is *running* any more; when copies and dialog are
gone then, the session has ended.

Guards: *ending*, *running*; *streams changed*, the call got other streams meanwhile; *not forking*, no renewal of the
copies is under way in an established session.
""",
    rows("""
none      | start       | running | pending | take document; copy | RFC 7866 7.1
pending   | forked      | ending | releasing | release | the call was faster
pending   | forked      | streams changed | pending | take document; copy | RFC 7866 7.1
pending   | forked      | | held | take document | RFC 7866 7.1
pending   | fork failed | ending | releasing | release | a renewal may have left the first copies
pending   | fork failed | | held | fail | a renewal may have left the first copies
pending   | media lost  | running | none | fail | the copies are gone with the media server
pending   | media lost  | | none | | the copies are gone with the media server
held      | copy        | running | pending | copy | another dialog needs another description
held      | stop        | not forking | releasing | release | RFC 7866 6.1.2
held      | forked      | ending | releasing | release | the end waited for the renewal
held      | fork failed | ending | releasing | release | the end waited for the renewal
held      | media lost  | running | none | fail | the copies are gone with the media server
held      | media lost  | | none | | the copies are gone with the media server
releasing | released    | | none | |
releasing | media lost  | | none | |
"""),
)

DIALOG: Final = Machine(
    "Recording session: dialog",
    """
The SIP dialog with the SRS. Redirects, challenges, other media types and repeats are the dialog's own business
(:mod:`siprec.recording.rs_dialog`): here it is *answered*, *refused* or *lost*. *close* comes from the other machines:
all is said. *stop* is the end of the recording, *peer bye* the SRS's BYE.

Guards: *copies are there*, those that the dialog waits for; *other offer*, for this SRS, or one that refused is taken
after all; *other srs*, there is one in the list, and the code does not end the search; *other srs and streams*, and it
needs other copies.
""",
    rows("""
none    | forked   | copies are there | calling | invite | RFC 7866 6.1.1, 9.1
calling | answered | ending | closing | bye | the 2xx crossed our CANCEL, RFC 3261 9.1
calling | answered | | up | begin; proceed | RFC 3261 13.2.2.4
calling | refused  | ending | none | dialog over | RFC 3261 9.1
calling | refused  | other offer | none | other srs; copy again | RFC 3264 6
calling | refused  | other srs and streams | none | next srs; copy again | failover
calling | refused  | other srs | calling | next srs; invite | failover
calling | refused  | | none | give up | no other SRS
calling | stop     | | calling | cancel | RFC 3261 9.1
calling | lost     | ending | none | dialog over | RFC 3261 12.2.1.2
calling | peer bye | ending | none | dialog over | RFC 3261 15.1.2
up      | lost     | ending | none | dialog over | RFC 3261 12.2.1.2
up      | lost     | | none | dialog over; note broken | RFC 3261 12.2.1.2
up      | peer bye | ending | none | dialog over | RFC 3261 15.1.2
up      | peer bye | | none | dialog over; stop | RFC 3261 15.1.2
up      | stop     | | up | limit end | the last metadata have a limit
up      | timer    | ending | closing | bye | the last metadata have a limit
up      | close    | | closing | bye | RFC 3261 15.1.1
closing | bye done | | none | dialog over | RFC 3261 15.1.1
closing | peer bye | | none | dialog over | RFC 3261 15.1.2
closing | lost     | | none | dialog over | RFC 3261 12.2.1.2
"""),
)

EXCHANGE: Final = Machine(
    "Recording session: exchange",
    """
The one thing at a time that changes an established session. *proceed* compares what is wanted (paused, streams,
document) with what is (gated, offered, connected, acknowledged document) by `next_due`, whose result is an event of the
state *idle*: packets stop before the SRS is offered a pause, and go on only when it agreed to the resumption. Changes
that come while something is under way are noted in what is wanted, and leave together when it is over.

Guards: *up*, *ending and up*, the dialog is; *gone*, the SRS does not know the dialog or is silent (408, 481); *later*,
491 or Retry-After, up to five times; *more due after refusal*, something else is to be done all the same; *can answer*,
no exchange with the media server is under way that an offer of the SRS would overtake.
""",
    rows("""
idle       | changed         | up | idle | proceed | RFC 7866 9.1
idle       | pause           | up | idle | proceed | RFC 7866 6.3
idle       | resume          | up | idle | proceed | RFC 7866 6.3
idle       | snapshot        | up | idle | proceed | RFC 7866 9.2
idle       | offer again     | up | idle | proceed | media do not arrive, or were not taken
idle       | peer answer     | up | idle | proceed | RFC 3261 13.2.1
idle       | due gate        | | gating | gate | RFC 7866 6.3
idle       | due ungate      | | gating | ungate | RFC 7866 6.3
idle       | due fork        | | forking | copy | RFC 7866 7.1.1
idle       | due connect     | | connecting | connect | RFC 3264 8
idle       | due offer       | | offering | offer | RFC 3261 14.1
idle       | due update      | | updating | update | RFC 7866 9.1
forking    | forked          | ending | idle | |
forking    | forked          | | idle | take document; want offer; proceed | RFC 7866 7.1.1
forking    | fork failed     | ending | idle | |
forking    | fork failed     | | idle | fail |
gating     | gated           | running | idle | toggled; proceed | RFC 7866 6.3
gating     | gate failed     | running | idle | fail | to feed after a pause is worse than to stop
connecting | connected       | running | idle | proceed | RFC 3264 8
connecting | connect failed  | running | idle | fail |
offering   | exchanged       | ending and up | updating | acknowledged; last words | RFC 7866 9.1
offering   | exchanged       | running | idle | agreed; proceed | RFC 3264 8
updating   | exchanged       | ending and up | updating | acknowledged; last words | RFC 7866 9.1
updating   | exchanged       | running | idle | updated; proceed | RFC 7866 9.1
offering   | exchange failed | ending and gone | idle | close | RFC 3261 15.1.1
offering   | exchange failed | ending and up | updating | last words | RFC 7866 9.1
offering   | exchange failed | gone | idle | lose | RFC 3261 12.2.1.2
offering   | exchange failed | later | waiting | repeat offer | RFC 3261 14.1, 20.33
offering   | exchange failed | more due after refusal | waiting | offer refused; wait | RFC 3261 14.1
offering   | exchange failed | running | idle | offer refused | RFC 3261 14.1
updating   | exchange failed | ending and gone | idle | close | RFC 3261 15.1.1
updating   | exchange failed | ending and up | updating | last words | RFC 7866 9.1
updating   | exchange failed | gone | idle | lose | RFC 3261 12.2.1.2
updating   | exchange failed | later | waiting | repeat | RFC 3261 14.1, 20.33
updating   | exchange failed | more due after refusal | waiting | refused; wait | RFC 3261 14.1
updating   | exchange failed | running | idle | refused | RFC 3261 14.1
waiting    | timer           | running | idle | proceed | RFC 3261 20.33
idle       | lost            | running | idle | proceed |
offering   | lost            | running | idle | proceed |
updating   | lost            | running | idle | proceed |
waiting    | lost            | running | idle | no timer; proceed |
idle       | stop            | up | updating | last words | RFC 7866 9.1
forking    | stop            | up | updating | last words | RFC 7866 9.1
gating     | stop            | up | updating | last words | RFC 7866 9.1
connecting | stop            | up | updating | last words | RFC 7866 9.1
waiting    | stop            | up | updating | last words | RFC 7866 9.1
offering   | timer           | ending | idle | |
updating   | timer           | ending | idle | |
offering   | close           | | idle | |
updating   | close           | | idle | |
idle       | peer offer      | can answer | idle | answer peer | RFC 3261 14.2
waiting    | peer offer      | can answer | waiting | answer peer | RFC 3261 14.2
idle       | peer offer      | | idle | refuse peer | RFC 3261 14.2
forking    | peer offer      | | forking | refuse peer | RFC 3261 14.2
gating     | peer offer      | | gating | refuse peer | RFC 3261 14.2
connecting | peer offer      | | connecting | refuse peer | RFC 3261 14.2
offering   | peer offer      | | offering | refuse peer | RFC 3261 14.2
updating   | peer offer      | | updating | refuse peer | RFC 3261 14.2
waiting    | peer offer      | | waiting | refuse peer | RFC 3261 14.2
idle       | peer done       | running | idle | peer answered; proceed | RFC 3264 8
forking    | peer done       | running | forking | peer answered; proceed | RFC 3264 8
gating     | peer done       | running | gating | peer answered; proceed | RFC 3264 8
connecting | peer done       | running | connecting | peer answered; proceed | RFC 3264 8
offering   | peer done       | running | offering | peer answered; proceed | RFC 3264 8
updating   | peer done       | running | updating | peer answered; proceed | RFC 3264 8
waiting    | peer done       | running | waiting | peer answered; proceed | RFC 3264 8
"""),
)

MACHINES: Final = (FORK, DIALOG, EXCHANGE)
