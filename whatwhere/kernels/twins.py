"""Which maps the kernels have a twin of: known without triton, so that it can be asked anywhere."""

from __future__ import annotations

from whatwhere.maps import Map, Polar, Rotate

__all__ = ["why_not"]


def why_not(mapping: Map) -> str | None:
    """None if the kernels compute this map, else a sentence."""
    if isinstance(mapping, Polar):
        return None
    if not isinstance(mapping, Rotate):
        return f"the preparation kernel has no twin of the map {type(mapping).__name__}"
    return None
