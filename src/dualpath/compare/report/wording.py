"""Numbers, loads and names as a reader should see them."""

import math
import unicodedata
from collections.abc import Sequence

from dualpath.compare.stats import Ratio

NOTHING = "–"
"""Shown if there is no figure."""


def clean(text: object) -> str:
    """Return text without what no page can show: control characters and lone surrogates."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in shown)


def short(text: object, length: int = 40) -> str:
    """Return `clean` text, its middle left out if it is longer than a figure has room for."""
    shown = clean(text)
    half = (length - 1) // 2
    return shown if len(shown) <= length else f"{shown[:half]}…{shown[-half:]}"


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if not math.isfinite(value):
        return NOTHING
    return fixed(value, max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0)


def fixed(value: float | None, digits: int) -> str:
    """Return so many digits after the point, and commas between thousands."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def digits(values: Sequence[float | None]) -> int:
    """Return how many digits after the point a whole column needs, so that its points stand under each other."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    smallest = min(sizes, default=1)
    return 0 if smallest >= 100 else 1 if smallest >= 3 else 2 if smallest >= 0.02 else 3


def difference(value: float) -> str:
    """Return such as "0" or "1.2e-6"."""
    if math.isnan(value):
        return "NaN"
    if value == 0 or 1e-3 <= value < 1e3 or math.isinf(value):
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def factor(ratio: Ratio) -> tuple[str, str]:
    """Return a ratio and its interval, such as ("1.99", "[1.87, 2.06]")."""
    if not known(ratio):
        return NOTHING, ""
    digits = 2 if ratio.value >= 0.1 else 3
    return fixed(ratio.value, digits), f"[{fixed(ratio.low, digits)}, {fixed(ratio.high, digits)}]"


def known(ratio: Ratio) -> bool:
    """Whether a ratio is a number above zero: without an answer, it is none."""
    return math.isfinite(ratio.value) and ratio.value > 0


def joined(words: Sequence[str]) -> str:
    """Return such as "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
