"""``siprec top``: calls and their recordings as they go, on the whole terminal."""
