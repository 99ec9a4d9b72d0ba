"""Digest authentication: values, hashes, and the side that answers (RFC 3261 22, RFC 7616, RFC 8760).

Of each realm the strongest challenge that is supported is answered. The side that asks is
:mod:`siprec.sip.digest_server`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from siprec.sip.headers import quote, split_commas, unquote
from siprec.sip.message import SipRequest, SipResponse, encode, header_name

_HASHES: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
ALGORITHMS: Final = frozenset(
    name + session
    for name, digest in _HASHES.items()
    if digest in hashlib.algorithms_available
    for session in ("", "-SESS")
)
"""Supported algorithm names, upper case."""
_STRENGTH: Final = {"MD5": 0, "SHA-256": 1, "SHA-512-256": 2}
_LEGACY: Final = ("MD5",)
_MAX_AGENT: Final = 256
_BARE: Final = frozenset({"algorithm", "nc", "stale"})
_CHALLENGES: Final = {"www-authenticate": "authorization", "proxy-authenticate": "proxy-authorization"}
_MAX_COUNTERS: Final = 1024
_WINDOW: Final = 64


@dataclass(frozen=True, slots=True)
class AuthValue:
    """One value of Authorization, WWW-Authenticate and their Proxy- twins: scheme and parameters without quotes."""

    scheme: str
    params: dict[str, str]

    @classmethod
    def parse(cls, value: str) -> AuthValue:
        """Parse one header line's value; never raises. Parameter names come in lower case."""
        scheme, _, rest = value.strip().partition(" ")
        params: dict[str, str] = {}
        for item in split_commas(rest):
            name, eq, text = item.partition("=")
            if eq:
                params.setdefault(name.strip().lower(), unquote(text))
        return cls(scheme, params)

    @property
    def is_digest(self) -> bool:
        """Whether the scheme is Digest."""
        return self.scheme.lower() == "digest"

    @property
    def algorithm(self) -> str:
        """The algorithm in upper case; MD5 when not given (RFC 3261 22.4)."""
        return self.params.get("algorithm", "MD5").upper()

    @property
    def qop(self) -> list[str]:
        """The offered (challenge) or used (credentials) qualities of protection, lower case."""
        return [item.strip().lower() for item in self.params.get("qop", "").split(",") if item.strip()]

    def get(self, name: str) -> str:
        """A parameter, or an empty string."""
        return self.params.get(name, "")

    def __str__(self) -> str:
        # qop is quoted in a challenge and bare in credentials (RFC 3261 25.1).
        bare = _BARE | {"qop"} if "response" in self.params else _BARE
        items = (f"{name}={value if name in bare else quote(value)}" for name, value in self.params.items())
        return f"{self.scheme} {', '.join(items)}"


def hash_password(algorithm: str, username: str, realm: str, password: str) -> str:
    """``H(username:realm:password)`` in hex, as kept in a file of users. `algorithm` one of `ALGORITHMS`."""
    return _hash(algorithm, encode(f"{username}:{realm}:{password}"))


def digest_response(
    algorithm: str,
    ha1: str,
    method: str,
    uri: str,
    nonce: str,
    *,
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
) -> str:
    """The ``response`` parameter (RFC 7616 3.4.1). `ha1` is `hash_password`; ``-sess`` is applied here.

    Raises:
        KeyError: unsupported algorithm.
    """
    if algorithm.upper().endswith("-SESS"):
        ha1 = _hash(algorithm, encode(f"{ha1}:{nonce}:{cnonce}"))
    a2 = f"{method}:{uri}"
    if qop == "auth-int":
        a2 += f":{_hash(algorithm, body)}"
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return _hash(algorithm, encode(f"{ha1}:{middle}:{_hash(algorithm, encode(a2))}"))


def _hash(algorithm: str, octets: bytes) -> str:
    return hashlib.new(_HASHES[algorithm.upper().removesuffix("-SESS")], octets).hexdigest()


# -- client ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password; an empty `realm` fits every realm. Challenges without ``qop`` (RFC 2069) are answered
    only with `allow_no_qop`: they have neither a client nonce nor a nonce count."""

    username: str
    password: str = field(repr=False)
    realm: str = ""
    allow_no_qop: bool = False


class CredentialStore:
    """Credentials by realm, and how often each nonce was used.

    `cnonce` makes client nonces; hand in a seeded one for reproducible tests.
    """

    __slots__ = ("_cnonce", "_counts", "_credentials")

    def __init__(self, credentials: Iterable[Credentials] = (), *, cnonce: Callable[[], str] | None = None) -> None:
        self._credentials = list(credentials)
        self._cnonce = cnonce or _random_cnonce
        self._counts: OrderedDict[str, int] = OrderedDict()

    def find(self, realm: str) -> Credentials | None:
        """The credentials for exactly this realm, else those for any realm, else None."""
        for wanted in (realm, ""):
            for credentials in self._credentials:
                if credentials.realm == wanted:
                    return credentials
        return None

    def add(self, credentials: Credentials) -> None:
        """Add credentials, replacing those of the same realm."""
        self._credentials = [known for known in self._credentials if known.realm != credentials.realm]
        self._credentials.append(credentials)

    def _count(self, nonce: str) -> int:
        count = self._counts.pop(nonce, 0) + 1
        self._counts[nonce] = count
        if len(self._counts) > _MAX_COUNTERS:
            self._counts.popitem(last=False)
        return count


def _random_cnonce() -> str:
    return secrets.token_hex(8)


def authorize(request: SipRequest, response: SipResponse, store: CredentialStore) -> bool:
    """Put the answers to a 401 or 407 into a request that is to be sent again (RFC 3261 22.2).

    `request` is changed in place: it is the caller's copy, with CSeq + 1 and a body that stays (``auth-int`` covers
    it). Of several challenges of a realm the one with the strongest algorithm is answered, of equal ones the topmost.
    Answers already in it for other realms are computed anew with the next nonce count.

    Returns False when sending again makes no sense: no credentials for any challenge, no supported algorithm, or the
    credentials were refused (same realm answered before and no ``stale=true``).
    """
    challenges: dict[tuple[str, str], AuthValue] = {}
    for key, target in _CHALLENGES.items():
        for value in response.get_all(key):
            challenge = AuthValue.parse(value)
            credentials = store.find(challenge.get("realm"))
            if credentials is None or not _supported(challenge, credentials):
                continue
            place = (target, challenge.get("realm"))
            known = challenges.get(place)
            if known is None or _strength(challenge) > _strength(known):
                challenges[place] = challenge
    answered = {
        (key, value.get("realm")): value
        for key in _CHALLENGES.values()
        for value in map(AuthValue.parse, request.get_all(key))
        if value.is_digest
    }
    fresh: dict[tuple[str, str], AuthValue] = {}
    for place, challenge in challenges.items():
        if place in answered and challenge.get("stale").lower() != "true":
            return False
        fresh[place] = challenge
    if not fresh:
        return False
    for place, basis in {**answered, **fresh}.items():
        credentials = store.find(place[1])
        if credentials is not None and _supported(basis, credentials):
            _put(request, place[0], place[1], _answer(request, basis, credentials, store))
    return True


def unanswered(response: SipResponse, store: CredentialStore) -> str:
    """Why the credentials at hand answer no challenge of a 401 or 407, for the log; empty where one can be answered."""
    reasons = []
    for key in _CHALLENGES:
        for value in response.get_all(key):
            challenge = AuthValue.parse(value)
            credentials = store.find(challenge.get("realm"))
            if credentials is None:
                reasons.append(f"no credentials for realm {challenge.get('realm')!r}")
            elif _supported(challenge, credentials):
                return ""
            elif not challenge.qop and challenge.is_digest and challenge.algorithm in ALGORITHMS:
                reasons.append(f"realm {challenge.get('realm')!r} offers no qop, and allow_no_qop is not set")
            else:
                reasons.append(f"realm {challenge.get('realm')!r} offers nothing that is supported")
    return "; ".join(dict.fromkeys(reasons)) or "no challenge in it"


def _supported(challenge: AuthValue, credentials: Credentials) -> bool:
    qop = challenge.qop
    return (
        challenge.is_digest
        and challenge.algorithm in ALGORITHMS
        and bool(challenge.get("nonce"))
        and "realm" in challenge.params
        and (not {"auth", "auth-int"}.isdisjoint(qop) if qop else credentials.allow_no_qop)
    )


def _strength(challenge: AuthValue) -> int:
    return _STRENGTH[challenge.algorithm.removesuffix("-SESS")]


def _answer(request: SipRequest, basis: AuthValue, credentials: Credentials, store: CredentialStore) -> AuthValue:
    """Credentials for a challenge, or for an earlier answer to one: both name realm, nonce, algorithm, qop, opaque."""
    realm, nonce, algorithm = basis.get("realm"), basis.get("nonce"), basis.algorithm
    offered = basis.qop
    qop = "auth" if "auth" in offered else "auth-int" if "auth-int" in offered else ""
    nc = f"{store._count(nonce):08x}" if qop else ""
    cnonce = store._cnonce() if qop or algorithm.endswith("-SESS") else ""
    response = digest_response(
        algorithm,
        hash_password(algorithm, credentials.username, realm, credentials.password),
        request.method,
        request.uri,
        nonce,
        qop=qop,
        nc=nc,
        cnonce=cnonce,
        body=request.body,
    )
    params = {"username": credentials.username, "realm": realm, "nonce": nonce, "uri": request.uri}
    params["response"] = response
    if "algorithm" in basis.params:
        params["algorithm"] = basis.params["algorithm"]
    if cnonce:
        params["cnonce"] = cnonce
    if "opaque" in basis.params:
        params["opaque"] = basis.params["opaque"]
    if qop:
        params["qop"] = qop
        params["nc"] = nc
    return AuthValue("Digest", params)


def _put(request: SipRequest, key: str, realm: str, value: AuthValue) -> None:
    """Write credentials in the place of earlier ones for the same realm, else at the end."""
    line = f"{header_name(key)}: {value}"
    for i, (k, text) in enumerate(zip(request.keys, request.lines, strict=True)):
        if k == key and AuthValue.parse(text.partition(":")[2]).get("realm") == realm:
            request.write_line(key, line, at=i)
            return
    request.write_line(key, line)


def check_algorithms(algorithms: Sequence[str], legacy_agents: Sequence[str] = ()) -> None:
    """Raises ValueError: no algorithm, one that is not supported, or a malformed expression; the text begins with the
    key."""
    if not algorithms:
        raise ValueError("algorithms: at least one is needed")
    for name in algorithms:
        if name.upper() not in ALGORITHMS:
            raise ValueError(f"algorithms: unsupported {name!r}; supported: {', '.join(sorted(ALGORITHMS))}")
    for text in legacy_agents:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"legacy_agents: {text!r}: {error}") from None
