"""Which sources an expression uses: the citation keys of its encoding, wrappers and spectra."""

from __future__ import annotations

from collections.abc import Iterable

from whatwhere import citations

__all__ = ["bibtex_of", "keys_of"]


def keys_of(text: str) -> list[str]:
    """Citation keys of an expression, of a modifier's or spectrum's name, or a key itself.

    Raises UnknownName or ValueError, as `whatwhere.parse`, for text that is none of these.
    """
    from whatwhere.encodings import TABLE, parse
    from whatwhere.spectra import TABLE as SPECTRA

    if text in SPECTRA:
        return [SPECTRA[text].cite]
    if text in TABLE and TABLE[text].modifier:
        return [TABLE[text].kind.cite]
    if text not in TABLE and (text in citations.REFERENCES or text in citations.SAME):
        return [text]
    found = [key for part in parse(text).parts for key in _part_keys(part)]
    return list(dict.fromkeys(found))


def _part_keys(part: object) -> list[str]:
    from whatwhere.encodings import TABLE, Part
    from whatwhere.spectra import TABLE as SPECTRA
    from whatwhere.spectra import Spectrum

    assert isinstance(part, Part)
    if part.name in SPECTRA:
        return [SPECTRA[part.name].cite]
    entry = TABLE[part.name]
    keys = [entry.kind.cite]
    keys += [value.cite for value in entry.preset.values() if isinstance(value, Spectrum)]
    for _, value in part.options:
        keys += _part_keys(value) if isinstance(value, Part) else []
    return keys


def bibtex_of(texts: Iterable[str]) -> str:
    """BibTeX of everything that these expressions use, each source once."""
    return citations.bibtex(*dict.fromkeys(key for text in texts for key in keys_of(text)))
