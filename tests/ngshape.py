"""Comparing ng replies by their keys."""

from __future__ import annotations

from typing import Any


def shape(value: Any) -> Any:
    """Keys, all the way down; of a list the shape of its elements. What is named by tag or label is a list of them."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__


def covers(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """What is in `theirs` and not in `ours`."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return [where]
        missing = []
        for key, each in theirs.items():
            if where.endswith("media-labels"):  # by label: any will do
                missing += [] if ours else [where]
                missing += covers(next(iter(ours.values()), None), each, f"{where}.*")
            else:
                missing += [f"{where}.{key}"] if key not in ours else covers(ours[key], each, f"{where}.{key}")
        return missing
    if isinstance(theirs, list):
        if isinstance(ours, list) and not any(isinstance(each, dict | list) for each in theirs):
            return []  # words
        if not isinstance(ours, list) or len(ours) != len(theirs):
            return [f"{where} has {theirs}, not {ours}"]
        return [each for one, other in zip(ours, theirs, strict=True) for each in covers(one, other, where + "[]")]
    return []
