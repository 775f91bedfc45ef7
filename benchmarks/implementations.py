"""Where `bandwidth` and scripts look for an encoding at a case; it is the package's."""

from whatwhere.bench.setting import setup

__all__ = ["setup"]
