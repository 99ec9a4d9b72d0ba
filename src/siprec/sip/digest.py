"""Digest authentication, both sides (RFC 3261 22, RFC 7616, RFC 8760): UAC-12 and REQ-07.

The client answers the topmost challenge it supports of each realm. The server keeps no nonces: a nonce carries its time
and an HMAC; what is kept, bounded, is which nonce counts were seen, so that a recorded request cannot be played again.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.headers import quote, split_commas, unquote
from siprec.sip.message import SipMessage, SipRequest, SipResponse, encode, header_name
from siprec.sip.uri import Uri

_HASHES: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
ALGORITHMS: Final = frozenset(
    name + session
    for name, digest in _HASHES.items()
    if digest in hashlib.algorithms_available
    for session in ("", "-SESS")
)
"""Supported algorithm names, upper case."""
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
    """A user's name and password; an empty `realm` fits every realm."""

    username: str
    password: str = field(repr=False)
    realm: str = ""


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
    """Put the answers to a 401 or 407 into a request that is to be sent again (UAC-12).

    `request` is changed in place: it is the caller's copy, with CSeq + 1 and a body that stays (``auth-int`` covers
    it). Answers already in it for other realms are computed anew with the next nonce count.

    Returns False when sending again makes no sense: no credentials for any challenge, no supported algorithm, or the
    credentials were refused (same realm answered before and no ``stale=true``).
    """
    challenges: dict[tuple[str, str], AuthValue] = {}
    for key, target in _CHALLENGES.items():
        for value in response.get_all(key):
            challenge = AuthValue.parse(value)
            if _supported(challenge):
                challenges.setdefault((target, challenge.get("realm")), challenge)
    answered = {
        (key, value.get("realm")): value
        for key in _CHALLENGES.values()
        for value in map(AuthValue.parse, request.get_all(key))
        if value.is_digest
    }
    fresh: dict[tuple[str, str], AuthValue] = {}
    for place, challenge in challenges.items():
        credentials = store.find(place[1])
        if credentials is None:
            continue
        if place in answered and challenge.get("stale").lower() != "true":
            return False
        fresh[place] = challenge
    if not fresh:
        return False
    for place, basis in {**answered, **fresh}.items():
        credentials = store.find(place[1])
        if credentials is not None and _supported(basis):
            _put(request, place[0], place[1], _answer(request, basis, credentials, store))
    return True


def _supported(challenge: AuthValue) -> bool:
    return (
        challenge.is_digest
        and challenge.algorithm in ALGORITHMS
        and bool(challenge.get("nonce"))
        and "realm" in challenge.params
        and (not challenge.qop or not {"auth", "auth-int"}.isdisjoint(challenge.qop))
    )


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
    line = (key, f"{header_name(key)}: {value}")
    for i, (k, text) in enumerate(request.lines):
        if k == key and AuthValue.parse(text.partition(":")[2]).get("realm") == realm:
            request.write_line(*line, at=i)
            return
    request.write_line(*line)


# -- server ------------------------------------------------------------------------------------------------------------

Lookup = Callable[[str], str | Mapping[str, str] | None]
"""User name to password, or to hashed passwords by algorithm (see `hash_password`), or None for an unknown user."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a check: `absent` (no credentials for this realm), `stale` (right, but with an old or used nonce:
    challenge again with ``stale=true``), `denied` (wrong), or `ok`. `reason` is for the log."""

    outcome: Literal["ok", "absent", "stale", "denied"]
    username: str = ""
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the request is authenticated."""
        return self.outcome == "ok"


class DigestServer:
    """Challenges and checks for one realm. ACK and CANCEL must never be challenged (RFC 3261 22.1): callers see to it.

    `secret` signs the nonces (random when empty: nonces then end with the process), `lifetime` is a nonce's life in
    seconds, `algorithms` in order of preference, `proxy` chooses 407's headers instead of 401's, `max_nonces` bounds
    the memory of used nonces.
    """

    def __init__(
        self,
        clock: Clock,
        realm: str,
        *,
        secret: bytes = b"",
        lifetime: float = 300.0,
        algorithms: Iterable[str] = ("SHA-256", "MD5"),
        qop: Iterable[str] = ("auth",),
        proxy: bool = False,
        max_nonces: int = 10_000,
    ) -> None:
        self.realm = realm
        self.proxy = proxy
        self._clock = clock
        self._secret = secret or secrets.token_bytes(32)
        self._lifetime = lifetime
        self._algorithms = tuple(algorithms)
        for algorithm in self._algorithms:
            if algorithm.upper() not in ALGORITHMS:
                raise ValueError(f"unsupported digest algorithm {algorithm!r}")
        self._qop = tuple(qop)
        self._numbers = itertools.count(secrets.randbits(32))
        self._max_nonces = max_nonces
        self._used: OrderedDict[str, tuple[int, int, float]] = OrderedDict()  # highest nc, bits below it, nonce's time
        self._forgotten = -1.0  # nonces made up to this time may have been used and forgotten

    def challenge(self, *, stale: bool = False) -> list[tuple[str, str]]:
        """The headers of a 401 or 407: one challenge per algorithm, the preferred one on top (RFC 8760 2.4)."""
        name = "Proxy-Authenticate" if self.proxy else "WWW-Authenticate"
        nonce = self._nonce()
        result = []
        for algorithm in self._algorithms:
            params = {"realm": self.realm, "nonce": nonce, "algorithm": algorithm}
            if self._qop:
                params["qop"] = ",".join(self._qop)
            if stale:
                params["stale"] = "true"
            result.append((name, str(AuthValue("Digest", params))))
        return result

    def verify(self, request: SipRequest, lookup: Lookup) -> Verification:
        """Check the request's credentials for this realm. Never raises."""
        value = self._credentials(request)
        if value is None:
            return Verification("absent")
        username = value.get("username")
        if not _same_uri(value.get("uri"), request.uri):
            return Verification("denied", username, "digest URI differs from the Request-URI")
        qop, nc = value.get("qop").lower(), value.get("nc")
        if qop not in ("", *self._qop) or (qop and not _is_count(nc)):
            return Verification("denied", username, "malformed qop or nc")
        known = lookup(username)
        ha1 = self._ha1(value.algorithm, username, known)
        expected = digest_response(
            value.algorithm,
            ha1,
            request.method,
            value.get("uri"),
            value.get("nonce"),
            qop=qop,
            nc=nc,
            cnonce=value.get("cnonce"),
            body=request.body,
        )
        # Unknown users take the same way as wrong passwords, so that time tells nothing.
        right = hmac.compare_digest(expected.encode(), encode(value.get("response").lower()))
        if not right or known is None:
            return Verification("denied", username, "wrong user or password")
        made = self._nonce_time(value.get("nonce"))
        if made is None or not -1.0 <= self._clock.wall() - made <= self._lifetime or made <= self._forgotten:
            return Verification("stale", username, "nonce too old")
        if not self._first_use(value.get("nonce"), made, int(nc, 16) if qop else 1):
            return Verification("stale", username, "nonce count used before")
        return Verification("ok", username)

    def _credentials(self, request: SipMessage) -> AuthValue | None:
        for text in request.get_all("proxy-authorization" if self.proxy else "authorization"):
            value = AuthValue.parse(text)
            if (
                value.is_digest
                and value.get("realm") == self.realm
                and any(value.algorithm == algorithm.upper() for algorithm in self._algorithms)
            ):
                return value
        return None

    def _ha1(self, algorithm: str, username: str, known: str | Mapping[str, str] | None) -> str:
        if known is None or isinstance(known, str):
            return hash_password(algorithm, username, self.realm, known or "")
        hashed = {name.upper(): value for name, value in known.items()}
        return hashed.get(algorithm) or hashed.get(algorithm.removesuffix("-SESS"), "").lower()

    def _nonce(self) -> str:
        stem = f"{int(self._clock.wall() * 1000):x}-{next(self._numbers):x}"
        return f"{stem}-{self._sign(stem)}"

    def _sign(self, stem: str) -> str:
        return hmac.new(self._secret, encode(f"{self.realm}\0{stem}"), hashlib.sha256).hexdigest()[:32]

    def _nonce_time(self, nonce: str) -> float | None:
        """When a nonce of ours was made; None for anybody else's."""
        stem, _, signature = nonce.rpartition("-")
        if not hmac.compare_digest(encode(self._sign(stem)), encode(signature)):
            return None
        return int(stem.partition("-")[0], 16) / 1000

    def _first_use(self, nonce: str, made: float, count: int) -> bool:
        """Note a nonce count; False if it was seen before, or lies too far below the highest one to tell."""
        highest, bits, _ = self._used.get(nonce, (0, 0, made))
        if count > highest:
            bits = ((bits << (count - highest)) | 1) & ((1 << _WINDOW) - 1) if count - highest < _WINDOW else 1
            self._used[nonce] = (count, bits, made)
            if len(self._used) > self._max_nonces:
                _, (_, _, time) = self._used.popitem(last=False)
                self._forgotten = max(self._forgotten, time)
            return True
        bit = 1 << (highest - count) if highest - count < _WINDOW else 0
        if not bit or bits & bit:
            return False
        self._used[nonce] = (highest, bits | bit, made)
        return True


def _is_count(nc: str) -> bool:
    return 1 <= len(nc) <= 8 and all(c in "0123456789abcdefABCDEF" for c in nc) and int(nc, 16) > 0


def _same_uri(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return Uri.parse(one).equivalent(Uri.parse(other))
    except SipError:
        return False
