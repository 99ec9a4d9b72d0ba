"""Hypothesis without a stopwatch and with the same examples each time: a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("siprec", deadline=None, derandomize=True)
settings.load_profile("siprec")
