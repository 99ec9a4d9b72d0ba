"""SRTP and SRTCP: against the RFC's own words and vectors, over wraps, changes of key, and hostile packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.rtp import srtp
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import SUITES, Crypto, CryptoError, Suite
from tests.unit import srtp_reference as reference

KEY = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE41390EC675AD498AFEEBB6960B3AABE6")  # RFC 3711 B.3


LONG_KEY = bytes.fromhex(  # RFC 6188 7.2
    "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2"
)


def key_of(suite: str) -> bytes:
    return LONG_KEY if "256" in suite else KEY


def packet(sequence: int, ssrc: int = 0xDECAFBAD, payload: bytes = b"\x55" * 160, timestamp: int = 1) -> bytes:
    return struct.pack("!BBHII", 0x80, 0, sequence & 0xFFFF, timestamp, ssrc) + payload


def crypto(key: bytes = KEY, suite: str = "AES_CM_128_HMAC_SHA1_80") -> Crypto:
    return Crypto(1, SUITES[suite], key)


def report(ssrc: int = 7) -> bytes:
    return struct.pack("!BBHI", 0x80, 201, 1, ssrc) + struct.pack("!BBHI", 0x81, 203, 1, ssrc)


# ------------------------------------------------------------------------------------------------------ the standard


def test_the_reference_agrees_with_the_vectors_of_rfc_3711() -> None:
    stream = reference.keystream(
        bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3C"), 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFD0000, 48
    )
    assert stream.hex().upper() == (
        "E03EAD0935C95E80E166B16DD92B4EB4" "D23513162B02D0F72A43A2FE4A5F97AB" "41E95B3BB0A2E8DD477901E4FCA894C0"
    )  # fmt: skip
    master, salt = KEY[:16], KEY[16:]
    assert reference.derive(master, salt, 0, 16).hex().upper() == "C61E7A93744F39EE10734AFE3FF7A087"
    assert reference.derive(master, salt, 2, 14).hex().upper() == "30CBBC08863D8C85D49DB34A9AE1"
    assert reference.derive(master, salt, 1, 94).hex().upper() == (
        "CEBE321F6FF7716B6FD4AB49AF256A15" "6D38BAA48F0A0ACF3C34E2359E6CDBCE" "E049646C43D9327AD175578EF7227098"
        "6371C10C9A369AC2F94A8C5FBCDDDC25" "6D6E919A48B610EF17C2041E47403576" "6B68642C59BBFC2F34DB60DBDFB2"
    )  # fmt: skip


def test_the_reference_agrees_with_the_vectors_of_rfc_6188() -> None:
    key = bytes.fromhex("57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98")
    assert reference.keystream(key, 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFD0000, 48).hex() == (
        "92bdd28a93c3f52511c677d08b5515a4" "9da71b2378a854f67050756ded165bac" "63c4868b7096d88421b563b8c94c9a31"
    )  # fmt: skip
    master, salt = LONG_KEY[:32], LONG_KEY[32:]
    assert reference.derive(master, salt, 0, 32).hex() == (
        "5ba1064e30ec51613cad926c5a28ef73" "1ec7fb397f70a960653caf06554cd8c4"
    )  # fmt: skip
    assert reference.derive(master, salt, 2, 14).hex() == "fa31791685ca444a9e07c6c64e93"
    assert reference.derive(master, salt, 1, 20).hex() == "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"


@pytest.mark.parametrize(
    ("suite", "tag"),
    [
        ("AES_CM_128_HMAC_SHA1_80", 10),
        ("AES_CM_128_HMAC_SHA1_32", 4),
        ("AES_256_CM_HMAC_SHA1_80", 10),
        ("AES_256_CM_HMAC_SHA1_32", 4),
    ],
)
def test_packets_are_what_rfc_3711_and_6188_say(suite: str, tag: int) -> None:
    key = key_of(suite)
    encryptor, decryptor = srtp.Encryptor(crypto(key, suite)), srtp.Decryptor(crypto(key, suite))
    for number in range(65530, 65542):  # over the wrap: the ROC is in it
        clear = packet(number)
        expected = reference.protect(key, clear, number >> 16, tag)
        assert encryptor.rtp(clear) == expected
        assert decryptor.rtp(expected) == clear


@pytest.mark.parametrize(
    "suite",
    ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AES_256_CM_HMAC_SHA1_80", "AES_256_CM_HMAC_SHA1_32"],
)
def test_rtcp_is_what_rfc_3711_and_6188_say(suite: str) -> None:
    key = key_of(suite)
    encryptor, decryptor = srtp.Encryptor(crypto(key, suite)), srtp.Decryptor(crypto(key, suite))
    for index in (1, 2, 3):
        secured = encryptor.rtcp(report())
        assert secured == reference.protect_rtcp(key, report(), index)
        assert decryptor.rtcp(secured) == report()


# ------------------------------------------------------------------------------------------------- what it has to bear


@pytest.mark.parametrize("suite", srtp.SUPPORTED)
def test_three_wraps_with_loss_and_disorder(suite: str) -> None:
    line = sdp_crypto.generate(suite=suite)
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    index = 65000
    sent = []
    while index < 4 << 16:
        sent.append(packet(index, payload=struct.pack("!I", index)))
        index += 1 if index % 65536 < 3 else 97
    secured = [one for each in sent if (one := encryptor.rtp(each)) is not None]
    assert len(secured) == len(sent)
    for at in range(0, len(secured) - 1, 2):
        secured[at], secured[at + 1] = secured[at + 1], secured[at]
    assert sorted(decryptor.rtp(each) or b"" for each in secured) == sorted(sent)
    assert decryptor.failed == decryptor.replayed == 0


def test_a_change_of_ssrc_begins_a_roc_of_its_own() -> None:
    line = sdp_crypto.generate()
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    for number in range(65534, 65540):
        assert decryptor.rtp(encryptor.rtp(packet(number, 1)) or b"") == packet(number, 1)
    assert decryptor.rtp(encryptor.rtp(packet(9, 2)) or b"") == packet(9, 2)
    assert decryptor.rtp(encryptor.rtp(packet(65540, 1)) or b"") == packet(65540, 1)


@pytest.mark.parametrize("start", [0, 5, 900, 1024, 30_000, 65_535])
@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM"])
def test_who_joins_late_finds_the_roc(suite: str, start: int) -> None:
    line = sdp_crypto.generate(suite=suite)
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    begin = (3 << 16) + start
    for index in range(0, begin, 0x4000):
        assert encryptor.rtp(packet(index)) is not None
    encryptor.rtp(packet(begin - 1))
    for index in range(begin, begin + 2000, 50):
        assert decryptor.rtp(encryptor.rtp(packet(index)) or b"") == packet(index)
    assert decryptor.failed == 0


def test_a_roc_is_not_searched_for_without_end() -> None:
    decryptor = srtp.Decryptor(sdp_crypto.generate())
    other = srtp.Encryptor(sdp_crypto.generate())
    for number in range(3000):
        assert decryptor.rtp(other.rtp(packet(number)) or b"") is None
    assert decryptor.failed == 3000
    assert decryptor._searches == srtp._SEARCHES


def test_packets_under_the_key_before_are_taken_while_keys_change() -> None:
    old, new = sdp_crypto.generate(), sdp_crypto.generate()
    before, after, decryptor = srtp.Encryptor(old), srtp.Encryptor(new), srtp.Decryptor(new, old)
    assert decryptor.rtp(before.rtp(packet(1)) or b"") == packet(1)
    assert decryptor.rtp(after.rtp(packet(2)) or b"") == packet(2)
    assert decryptor.rtp(before.rtp(packet(3)) or b"") == packet(3)
    assert decryptor.failed == 0


def test_a_packet_that_comes_twice_is_one() -> None:
    line = sdp_crypto.generate()
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    secured = encryptor.rtp(packet(1)) or b""
    assert decryptor.rtp(secured) == packet(1)
    assert decryptor.rtp(secured) is None
    assert (decryptor.replayed, decryptor.failed) == (1, 0)


def test_a_sequence_number_is_not_encrypted_twice() -> None:
    encryptor = srtp.Encryptor(sdp_crypto.generate())
    assert encryptor.rtp(packet(1)) is not None
    assert encryptor.rtp(packet(1, payload=b"other")) is None  # it would give the key stream away
    assert encryptor.failed == 1


def test_sources_that_one_key_serves_are_limited() -> None:
    encryptor = srtp.Encryptor(sdp_crypto.generate())
    done = [encryptor.rtp(packet(1, ssrc)) for ssrc in range(500)]
    assert sum(each is not None for each in done) == srtp.MAX_SSRCS
    assert encryptor.rtp(packet(2, 3)) is not None


def test_a_suite_that_cannot_be_used_says_so() -> None:
    line = Crypto(1, Suite("F8_128_HMAC_SHA1_80", 16), KEY)
    with pytest.raises(CryptoError, match="F8_128_HMAC_SHA1_80"):
        srtp.Decryptor(line)
    assert srtp.choose([line.value()]) is None
    second = sdp_crypto.generate(2, "AEAD_AES_128_GCM")
    assert srtp.choose([line.value(), second.value()]) == second


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from(srtp.SUPPORTED))
def test_whatever_comes_never_raises(data: bytes, suite: str) -> None:
    line = sdp_crypto.generate(suite=suite)
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    assert decryptor.rtp(data) is None
    assert decryptor.rtcp(data) is None
    assert decryptor.failed == 2
    encryptor.rtp(data)
    encryptor.rtcp(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 171 * 8 - 1), st.sampled_from(srtp.SUPPORTED))
def test_one_bit_that_is_wrong_is_noticed(bit: int, suite: str) -> None:
    line = sdp_crypto.generate(suite=suite)
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(line)
    damaged = bytearray(encryptor.rtp(packet(1)) or b"")
    damaged[bit // 8] ^= 1 << bit % 8
    assert decryptor.rtp(bytes(damaged)) is None
    assert decryptor.rtp(encryptor.rtp(packet(2)) or b"") == packet(2)


def test_offers_are_no_weaker_than_what_they_are_a_copy_of() -> None:
    """SEC-08."""
    like = sdp_crypto.generate(suite="AEAD_AES_256_GCM")
    lines = srtp.offer_lines(like)
    assert [line.suite.name for line in lines] == [
        "AEAD_AES_256_GCM",
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
    ]
    assert [line.tag for line in lines] == [1, 2, 3]
    assert len({line.key for line in (like, *lines)}) == 4
    assert srtp.offer_lines()[0].suite.name == "AES_CM_128_HMAC_SHA1_80"
