"""Where `bandwidth` and scripts look for device times; they are the package's."""

from whatwhere.bench.measure import distance, milliseconds, peak_mib, poison

__all__ = ["distance", "milliseconds", "peak_mib", "poison"]
