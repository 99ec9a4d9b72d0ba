"""The HTTP API of a proxy: look at calls and recordings, steer them, follow their events, read metrics."""
