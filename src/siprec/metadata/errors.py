"""Why a metadata document cannot be used."""

from __future__ import annotations


class MetadataError(ValueError):
    """Nothing in the document can be used, or it is damaged and was to be read strictly. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
