"""The four transaction machines (RFC 3261 17, RFC 4320, RFC 6026) as tables.

They hold for unreliable and reliable transports alike: over TCP and TLS nothing is sent again, and Timers D, I, J and K
are zero instead of being left out, so that every state is passed through. What the actions do is in
:mod:`siprec.sip.transaction_client` and :mod:`siprec.sip.transaction_server`: the method of an action has its name.
"""

from __future__ import annotations

from typing import Final

from siprec.sip.fsm import Machine, rows

INVITE_CLIENT: Final = Machine(
    "INVITE client transaction",
    """
RFC 3261 17.1.1 with RFC 6026 7.2 and 8.4. Timers: A, sends again, from T1, doubling; B, 64*T1 without a response; D,
32 s and at least 64*T1, 0 over a reliable transport; M, 64*T1; *CANCEL timer*, 64*T1 from the CANCEL (RFC 3261 9.1).
The same clock entry serves A and B.

Guards: *for_size*, the request went over TCP only because it is large (RFC 3261 18.1.1); *cancelling*, a CANCEL was
asked for.
""",
    rows("""
           | send            | | calling | send request; start timers A and B | 3261 17.1.1.2
calling    | timer A         | | calling | send request; restart timer A | 3261 17.1.1.2
calling    | timer B         | | terminated | report timeout | 3261 17.1.1.2
calling    | transport error | for_size | calling | send over UDP | 3261 18.1.1
calling    | transport error | | terminated | report failure | 3261 17.1.4
calling    | cancel          | | calling | | 3261 9.1
calling    | 1xx             | cancelling | proceeding | stop timers; send CANCEL; pass response | 3261 9.1
calling    | 1xx             | | proceeding | stop timers; pass response | 3261 17.1.1.2
calling    | 2xx             | | accepted | stop timers; start timer M; pass response | 6026 8.4
calling    | 300-699         | | completed | stop timers; send ACK; start timer D; pass response | 3261 17.1.1.2
proceeding | cancel          | | proceeding | send CANCEL | 3261 9.1
proceeding | CANCEL timer    | | terminated | report timeout | 3261 9.1
proceeding | 1xx             | | proceeding | pass response | 3261 17.1.1.2
proceeding | 2xx             | | accepted | stop timers; start timer M; pass response | 6026 8.4
proceeding | 300-699         | | completed | stop timers; send ACK; start timer D; pass response | 3261 17.1.1.2
completed  | 300-699         | | completed | send ACK | 3261 17.1.1.2
completed  | transport error | | terminated | | 3261 17.1.1.2
completed  | timer D         | | terminated | | 3261 17.1.1.2
accepted   | 2xx             | | accepted | pass response | 6026 7.2
accepted   | timer M         | | terminated | | 6026 8.4
"""),
)

CLIENT: Final = Machine(
    "Non-INVITE client transaction",
    """
RFC 3261 17.1.2. Timers: E, sends again, from T1, doubling up to T2, T2 from the first provisional response on; F, 64*T1
without a final response; K, T4, 0 over a reliable transport. The same clock entry serves E and F.

Guards: as above.
""",
    rows("""
           | send            | | trying | send request; start timers E and F | 3261 17.1.2.2
trying     | timer E         | | trying | send request; restart timer E | 3261 17.1.2.2
trying     | timer F         | | terminated | report timeout | 3261 17.1.2.2
trying     | transport error | for_size | trying | send over UDP | 3261 18.1.1
trying     | transport error | | terminated | report failure | 3261 17.1.4
trying     | 1xx             | | proceeding | pass response | 3261 17.1.2.2
trying     | 200-699         | | completed | stop timers; start timer K; pass response | 3261 17.1.2.2
proceeding | timer E         | | proceeding | send request; restart timer E | 3261 17.1.2.2
proceeding | timer F         | | terminated | report timeout | 3261 17.1.2.2
proceeding | transport error | | terminated | report failure | 3261 17.1.4
proceeding | 1xx             | | proceeding | pass response | 3261 17.1.2.2
proceeding | 200-699         | | completed | stop timers; start timer K; pass response | 3261 17.1.2.2
completed  | timer K         | | terminated | | 3261 17.1.2.2
"""),
)

INVITE_SERVER: Final = Machine(
    "INVITE server transaction",
    """
RFC 3261 17.2.1 with RFC 6026 7.1 and 8.3. Timers: G, sends again, from T1, doubling up to T2, not over a reliable
transport; H, 64*T1 without an ACK; I, T4, 0 over a reliable transport; L, 64*T1. The same clock entry serves G and H.

There is no row for a transport error: the transaction goes on (RFC 6026 7.1), and its user hears of it at the end. In
*accepted* a repeated INVITE is absorbed, and the user repeats the 2xx.
""",
    rows("""
           | request      | | proceeding | | 3261 17.2.1
proceeding | request      | | proceeding | send response again | 3261 17.2.1
proceeding | cancel       | | proceeding | report CANCEL | 3261 9.2
proceeding | send 1xx     | | proceeding | send response | 3261 17.2.1
proceeding | send again   | | proceeding | send response again | 3261 13.3.1.1
proceeding | send 2xx     | | accepted | start timer L; send response | 6026 8.3
proceeding | send 300-699 | | completed | start timers G and H; send response | 3261 17.2.1
proceeding | ack          | | proceeding | pass ACK | 3261 17.2.1
completed  | request      | | completed | send response again | 3261 17.2.1
completed  | timer G      | | completed | send response again; restart timer G | 3261 17.2.1
completed  | timer H      | | terminated | report timeout | 3261 17.2.1
completed  | ack          | | confirmed | stop timers; start timer I | 3261 17.2.1
confirmed  | timer I      | | terminated | report end | 3261 17.2.1
accepted   | ack          | | accepted | pass ACK | 6026 7.1
accepted   | send 2xx     | | accepted | send response | 6026 8.3
accepted   | send again   | | accepted | send response again | 6026 8.3
accepted   | timer L      | | terminated | report end | 6026 8.3
"""),
)

SERVER: Final = Machine(
    "Non-INVITE server transaction",
    """
RFC 3261 17.2.2 with RFC 4320. Timers: J, 64*T1, 0 over a reliable transport; *100 timer*, 7*T1, when the client's Timer
E has reached T2 (RFC 4320 4.1); *late*, when the client's Timer F has run out (RFC 4320 4.2).

A provisional response other than 100 is never sent, nor is a 100 over UDP before the *100 timer*. *send nothing* stands
for a 408: it ends the waiting, but is not sent (RFC 4320 4.2). Guard: *reliable*, the transport retransmits by itself.
""",
    rows("""
           | request         | | trying | start 100 timer | 4320 4.1
trying     | 100 timer       | | proceeding | send 100; start late timer | 4320 4.1
trying     | send 100        | reliable | proceeding | stop timers; send response; start late timer | 3261 17.2.2
trying     | send final      | | completed | stop timers; start timer J; send response | 3261 17.2.2
trying     | send nothing    | | completed | stop timers; start timer J; forget response | 4320 4.2
proceeding | request         | | proceeding | send response again | 3261 17.2.2
proceeding | send final      | | completed | stop timers; start timer J; send response | 3261 17.2.2
proceeding | send nothing    | | completed | stop timers; start timer J; forget response | 4320 4.2
proceeding | late            | | terminated | report timeout | 4320 4.2
completed  | request         | | completed | send response again | 3261 17.2.2
completed  | transport error | | terminated | report end | 3261 17.2.4
completed  | timer J         | | terminated | report end | 3261 17.2.2
"""),
)

MACHINES: Final = (INVITE_CLIENT, CLIENT, INVITE_SERVER, SERVER)
