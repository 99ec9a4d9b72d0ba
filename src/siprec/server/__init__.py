"""Processes: configuration, start, reload, end."""
