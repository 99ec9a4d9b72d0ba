"""`a=crypto` lines: the RFC's own examples, what peers get wrong, what nobody may get to see."""

from __future__ import annotations

import base64
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import SUITES, Crypto, CryptoError

# key and salt of an example in RFC 4568
RFC_KEY = "PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR"
RFC_LINE = f"1 AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY}|2^20|1:32"
PLAIN = f"1 AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY}"


def test_example_of_the_rfc_is_read_and_written_as_it_was() -> None:
    crypto = sdp_crypto.parse(RFC_LINE)
    assert (crypto.tag, crypto.lifetime, crypto.mki, crypto.mki_length) == (1, "2^20", 1, 32)
    assert crypto.key == base64.b64decode(RFC_KEY)
    assert crypto.value() == RFC_LINE


@pytest.mark.parametrize("suite", list(SUITES))
def test_generated_lines_survive_the_wire_and_differ(suite: str) -> None:
    one, two = sdp_crypto.generate(7, suite), sdp_crypto.generate(7, suite)
    assert sdp_crypto.parse(one.value()) == one
    assert len(one.key) == SUITES[suite].material_length
    assert one.key != two.key


def test_key_without_padding_is_taken() -> None:
    line = sdp_crypto.generate(1, "AES_256_CM_HMAC_SHA1_80")
    assert line.value().endswith("=")
    assert sdp_crypto.parse(line.value().rstrip("=")) == line


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "1",
        "1 AES_CM_128_HMAC_SHA1_80",
        f"x AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY}",
        f"1234567890 AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY}",
        f"1 F8_128_HMAC_SHA1_80 inline:{RFC_KEY}",
        f"1 AES_256_CM_HMAC_SHA1_80 inline:{RFC_KEY}",
        f"1 AES_CM_128_HMAC_SHA1_80 other:{RFC_KEY}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY[:-4]}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{RFC_KEY};inline:{RFC_KEY}",
        "1 AES_CM_128_HMAC_SHA1_80 inline:\u00e9\u00e9\u00e9\u00e9",
        f"{PLAIN}|2^20|1:4|x",
        f"{PLAIN}|1:4|2^20",
        f"{PLAIN}|256:1",
        f"{PLAIN}|1:0",
        f"{PLAIN}|1:129",
        f"{PLAIN} UNENCRYPTED_SRTP",
        PLAIN + " -x" * 2000,
    ],
)
def test_bad_line_is_a_typed_error_without_the_key(bad: str) -> None:
    with pytest.raises(CryptoError) as caught:
        sdp_crypto.parse(bad)
    assert RFC_KEY[:12] not in str(caught.value)
    assert caught.value.__cause__ is None
    assert sdp_crypto.choose([bad]) is None


@given(st.lists(st.text(max_size=80) | st.text(max_size=40).map(lambda tail: PLAIN + tail)))
def test_hostile_lines_never_raise_where_one_is_chosen(values: list[str]) -> None:
    chosen = sdp_crypto.choose(values)
    assert chosen is None or len(chosen.key) == chosen.suite.material_length


def test_first_usable_line_wins_and_the_answer_has_its_tag_and_suite_and_a_key_of_its_own() -> None:
    second = sdp_crypto.generate(2, "AES_CM_128_HMAC_SHA1_32")
    offered = sdp_crypto.choose([f"1 F8_128_HMAC_SHA1_80 inline:{RFC_KEY}", second.value() + " WSH=64", PLAIN])
    assert offered is not None
    assert offered.tag == 2
    answer = sdp_crypto.answer(offered)
    assert (answer.tag, answer.suite, answer.params) == (2, second.suite, ())
    assert answer.key != offered.key
    assert sdp_crypto.matches([offered], answer) is offered


def test_answer_with_another_tag_or_suite_matches_nothing() -> None:
    offered = sdp_crypto.generate(1)
    assert sdp_crypto.matches([offered], sdp_crypto.generate(2)) is None
    assert sdp_crypto.matches([offered], sdp_crypto.generate(1, "AES_CM_128_HMAC_SHA1_32")) is None


def test_policy_narrows_the_choice_and_lines_with_mki_are_passed_over() -> None:
    assert sdp_crypto.choose([PLAIN], ["AES_256_CM_HMAC_SHA1_80"]) is None
    assert sdp_crypto.choose([RFC_LINE]) is None


def test_key_is_not_in_what_a_log_shows(caplog: pytest.LogCaptureFixture) -> None:
    crypto: Crypto = sdp_crypto.parse(PLAIN)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").debug("%s %r", crypto, [crypto])
    assert RFC_KEY not in caplog.text
    assert repr(crypto.key) not in caplog.text
    assert "AES_CM_128_HMAC_SHA1_80" in caplog.text
