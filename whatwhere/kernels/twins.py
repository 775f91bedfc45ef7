"""Which maps the kernels have a twin of, and its name there: known without triton, anywhere."""

from __future__ import annotations

from whatwhere.maps import Map, Polar, Rotate

__all__ = ["recipe", "why_not"]


def why_not(mapping: Map) -> str | None:
    """None if the kernels compute this map, else a sentence."""
    if isinstance(mapping, Polar):
        return None
    if not isinstance(mapping, Rotate):
        return f"the preparation kernel has no twin of the map {type(mapping).__name__}"
    return None


def recipe(mapping: Map) -> str:
    """What the kernels call this map: a rotation's layout, a magnitude, "identity" of vectors that
    enter as they are."""
    if isinstance(mapping, Rotate):
        return mapping.layout
    return mapping.magnitude if isinstance(mapping, Polar) else "identity"
