"""Where `bandwidth` and scripts look for shapes; they are the package's."""

from whatwhere.bench.cases import Case
from whatwhere.bench.setting import DEVICE

__all__ = ["DEVICE", "Case"]
