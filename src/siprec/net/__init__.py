"""Sockets and names: timers, UDP, TCP and TLS, RFC 3263."""
