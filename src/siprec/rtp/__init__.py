"""RTP and RTCP (RFC 3550), SRTP (RFC 3711): packets and their protection. No I/O."""
