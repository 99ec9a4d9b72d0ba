"""Recording metadata (RFC 7865): one model, written by the SRC, read and merged by the SRS.

:mod:`~siprec.metadata.document` holds the model, :mod:`~siprec.metadata.write` and :mod:`~siprec.metadata.read` turn it
into XML and back, :mod:`~siprec.metadata.diff` makes partial updates and :mod:`~siprec.metadata.merge` adds them up.
Nothing here does I/O or knows a call.
"""
