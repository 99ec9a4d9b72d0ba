"""The parts that are compiled, each of which may be left out: what they do is there in Python too. All else is in
pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-Wall", "-Wextra"]


def extension(name: str, folder: str, *names: str, libraries: tuple[str, ...] = ()) -> Extension:
    """The module `name` of the C files `names` (all of them by default) in `folder`."""
    sources = Path("src/siprec", folder)
    return Extension(
        name,
        sources=[str(sources / each) for each in names] or sorted(str(path) for path in sources.glob("*.c")),
        depends=[str(path) for path in sources.glob("*.h")],
        define_macros=[("_GNU_SOURCE", None)],
        extra_compile_args=FLAGS,
        libraries=list(libraries),
        optional=True,  # no compiler, no Python.h
    )


setup(
    ext_modules=[
        extension("siprec.relay._native", "relay/csrc", libraries=("pthread",)),
        extension("siprec.media._bencode", "media/csrc"),
        extension("siprec.sip._scan", "sip/csrc"),
    ]
)
