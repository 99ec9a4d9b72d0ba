"""SRTP in counter mode as RFC 3711 writes it down, slow and plain: something to compare the real one with.

`aes_encrypt` is FIPS 197, keys of 192 and 256 bits are used as in RFC 6188; the rest are the sections named. Tested
with the RFCs' own vectors.
"""

from __future__ import annotations

import hashlib
import hmac


def _sbox() -> list[int]:
    box, p, q = [0] * 256, 1, 1
    while True:
        p = p ^ (p << 1 & 0xFF) ^ (0x1B if p & 0x80 else 0)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        q ^= 0x09 if q & 0x80 else 0
        x = q ^ _rotl(q, 1) ^ _rotl(q, 2) ^ _rotl(q, 3) ^ _rotl(q, 4)
        box[p] = x ^ 0x63
        if p == 1:
            box[0] = 0x63
            return box


def _rotl(x: int, n: int) -> int:
    return (x << n | x >> 8 - n) & 0xFF


_SBOX = _sbox()


def _twice(x: int) -> int:
    return x << 1 & 0xFF ^ (0x1B if x & 0x80 else 0)


def aes_encrypt(key: bytes, block: bytes) -> bytes:
    """One block, key of 128, 192 or 256 bits (FIPS 197)."""
    length = len(key) // 4
    rounds = length + 6
    words = [list(key[i : i + 4]) for i in range(0, len(key), 4)]
    rcon = 1
    for i in range(length, 4 * rounds + 4):
        word = list(words[i - 1])
        if i % length == 0:
            word = [_SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = _twice(rcon)
        elif length == 8 and i % length == 4:
            word = [_SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[i - length], word, strict=True)])
    keys = [[b for word in words[i : i + 4] for b in word] for i in range(0, 4 * rounds + 4, 4)]
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number in range(1, rounds + 1):
        state = [_SBOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if number < rounds:
            mixed: list[int] = []
            for c in range(0, 16, 4):
                a = state[c : c + 4]
                every = a[0] ^ a[1] ^ a[2] ^ a[3]
                mixed += [a[i] ^ every ^ _twice(a[i] ^ a[(i + 1) % 4]) for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, keys[number], strict=True)]
    return bytes(state)


def keystream(key: bytes, iv: int, octets: int) -> bytes:
    """AES in counter mode (RFC 3711 4.1.1)."""
    out = b"".join(aes_encrypt(key, (iv + i).to_bytes(16, "big")) for i in range((octets + 15) // 16))
    return out[:octets]


def derive(master: bytes, salt: bytes, label: int, octets: int) -> bytes:
    """A session key (RFC 3711 4.3.1, with a key derivation rate of 0)."""
    return keystream(master, (int.from_bytes(salt, "big") ^ label << 48) << 16, octets)


def _xor(data: bytes, stream: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def protect(key: bytes, packet: bytes, roc: int, tag: int = 10, header: int = 12) -> bytes:
    """An RTP packet with a header of `header` octets as SRTP; `key` is master key and salt, `tag` in octets."""
    master, salt = key[:-14], key[-14:]
    sequence, ssrc = int.from_bytes(packet[2:4], "big"), int.from_bytes(packet[8:12], "big")
    iv = int.from_bytes(derive(master, salt, 2, 14), "big") << 16 ^ ssrc << 64 ^ (roc << 16 | sequence) << 16
    payload = packet[header:]
    out = packet[:header] + _xor(payload, keystream(derive(master, salt, 0, len(master)), iv, len(payload)))
    return out + hmac.digest(derive(master, salt, 1, 20), out + roc.to_bytes(4, "big"), hashlib.sha1)[:tag]


def protect_rtcp(key: bytes, packet: bytes, index: int) -> bytes:
    """An RTCP packet as SRTCP, encrypted, with a tag of 80 bits (RFC 3711 3.4)."""
    master, salt = key[:-14], key[-14:]
    ssrc = int.from_bytes(packet[4:8], "big")
    iv = int.from_bytes(derive(master, salt, 5, 14), "big") << 16 ^ ssrc << 64 ^ index << 16
    out = packet[:8] + _xor(packet[8:], keystream(derive(master, salt, 3, len(master)), iv, len(packet) - 8))
    out += (1 << 31 | index).to_bytes(4, "big")
    return out + hmac.digest(derive(master, salt, 4, 20), out, hashlib.sha1)[:10]
