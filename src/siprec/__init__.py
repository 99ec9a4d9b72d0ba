"""SIPREC in Python: a SIP proxy that has calls recorded, a media relay, and a recorder."""

__version__ = "0.1.0"
