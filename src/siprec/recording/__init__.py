"""The session recording client (SRC) of RFC 7866: recordings of proxied calls at SIPREC servers."""
