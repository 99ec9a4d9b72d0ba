"""Clients of media servers: what the proxy and the recording use, and how RTPEngine and our relay are spoken to."""
