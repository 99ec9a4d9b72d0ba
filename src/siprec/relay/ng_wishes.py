"""What an ``ng`` request asks for besides its description, and the error that a reply carries."""

from __future__ import annotations

from dataclasses import dataclass


class CallError(Exception):
    """A request that cannot be done; the text is the error-reason of the reply."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for besides: ng keys ``replace``, ``direction``, ``media address``, ``address family``,
    ``transport protocol``, ``SDES``, ``received-from`` (the address alone), ``via-branch``.

    Two of ours: `preroll`, seconds that a subscription goes back at most (``pre-roll age``, in ms; None: as far as
    there is anything), and `hold`, keep everything for another recorder than the one before (``pre-roll hold``).
    """

    origin: bool = False
    session_name: bool = False
    interfaces: tuple[str, ...] = ()
    media_address: str = ""
    family: str = ""
    flags: frozenset[str] = frozenset()
    label: str = ""
    preroll: float | None = None
    hold: bool = False
    transport: str = ""
    sdes: frozenset[str] = frozenset()
    received_from: str = ""
    via_branch: str = ""
