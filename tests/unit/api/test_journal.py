"""What events add up to."""

from __future__ import annotations

from siprec.api import journal
from siprec.api.journal import Journal
from siprec.recording import events
from siprec.recording.events import SiprecEvent


def event(
    name: str, server: str = "sip:a", wall: float = 1.0, status: int = 0, reason: str = "", dlg: str = "d"
) -> SiprecEvent:
    return SiprecEvent(name, dlg, "c", "r", "s", server, "default", wall, reason, status)


class AnyCall:
    answer_wall = 0.5


def make(alive: bool = True) -> tuple[Journal, list[float]]:
    setups: list[float] = []
    return Journal(lambda dlg_id: AnyCall() if alive else None, setups.append), setups  # type: ignore[arg-type,return-value]


def test_failover_shows_as_attempts_and_health() -> None:
    book, setups = make()
    book(event(events.FAILOVER, "sip:a", 1.0, 408, "timeout"))
    book(event(events.START, "sip:b", 2.0))
    entry = book.entry("d", "default")
    assert [(a.server, a.result, a.status) for a in entry.attempts] == [
        ("sip:a", "failed", 408),
        ("sip:b", "established", 0),
    ]
    assert entry.last_error == "408 timeout"
    assert (book.servers["sip:a"].state, book.servers["sip:b"].state) == ("down", "up")
    assert setups == [1.5]
    # The setup time of a recording is that of its first SRS.
    book(event(events.STOP, "sip:b", 3.0, 481))
    book(event(events.START, "sip:a", 4.0))
    assert setups == [1.5]
    assert book.servers["sip:a"].state == "up"
    assert book.results[events.START, "sip:b"] == 1


def test_a_refusal_is_the_word_of_a_server_that_is_well() -> None:
    book, _ = make()
    book(event(events.START))
    book(event(events.FAILED, status=403, reason="Forbidden"))
    assert (book.servers["sip:a"].state, book.servers["sip:a"].failed) == ("up", 1)
    book(event(events.FAILED, status=503))
    assert book.servers["sip:a"].state == "down"


def test_failures_of_the_media_server_do_not_count_against_the_srs() -> None:
    book, _ = make()
    book(event(events.FAILED, reason="fork: timeout"))
    assert (book.servers["sip:a"].state, book.servers["sip:a"].failed) == ("unknown", 0)
    assert book.entry("d", "default").last_error == "fork: timeout"


def test_pauses_begin_and_end() -> None:
    book, _ = make()
    for name, wall in ((events.PAUSED, 1.0), (events.RESUMED, 2.0), (events.RESUMED, 3.0), (events.PAUSED, 4.0)):
        book(event(name, wall=wall))
    assert [(p.start, p.end) for p in book.entry("d", "default").pauses] == [(1.0, 2.0), (4.0, None)]
    book(event(events.STOP, wall=5.0))
    assert book.entry("d", "default").pauses[-1].end == 5.0


def test_nothing_is_kept_of_calls_that_are_over() -> None:
    book, _ = make(alive=False)
    for number in range(100):
        book(event(events.START, dlg=f"d{number}"))
        book(event(events.STOP, dlg=f"d{number}"))
    assert not book._entries


def test_it_stays_bounded() -> None:
    book, _ = make()
    for number in range(journal.MAX_SERVERS + 50):
        book(event(events.START, f"sip:{number}", dlg=f"d{number}"))
    assert len(book.servers) == journal.MAX_SERVERS + 1
    assert book.results[events.START, journal.OTHER] == 50
    for number in range(journal.MAX_ENTRIES + 10):
        book(event(events.PAUSED, dlg=f"x{number}"))
    assert len(book._entries) == journal.MAX_ENTRIES
