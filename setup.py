"""The one part that is compiled, and may be left out: the relay's packet loop. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("src/siprec/relay/csrc")

setup(
    ext_modules=[
        Extension(
            "siprec.relay._native",
            sources=sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=[str(SOURCES / "relay.h")],
            define_macros=[("_GNU_SOURCE", None)],
            extra_compile_args=["-std=c11", "-Wall", "-Wextra"],
            libraries=["pthread"],
            optional=True,  # no compiler, no Python.h: the loop in Python does the same
        )
    ]
)
