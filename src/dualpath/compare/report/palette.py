"""The colours of the page and its figures, and the marks that tell contenders apart without colour.

Figures are drawn in the light colours. In the page each of them becomes a CSS variable, which has another value if
the reader prefers dark. Every series has a contrast of 3 to 1 with the paper and every text 4.5 to 1; the series are
after Okabe and Ito, so that colour-blind readers tell the first ones apart, and each has its own marker.
"""

_COLOURS = {  # on light and on dark paper
    "paper": ("#ffffff", "#14171b"),
    "raised": ("#f5f7f9", "#1c2127"),
    "ink": ("#1b2026", "#e7eaee"),
    "muted": ("#57616c", "#a0aab5"),
    "rule": ("#c9d0d8", "#3b434c"),
    "grid": ("#e4e8ec", "#282e35"),
    "good": ("#1a7348", "#5ecb94"),
    "bad": ("#b3261f", "#ff8c82"),
    "warn": ("#8a5a00", "#e3b341"),
    "series-0": ("#0072b2", "#56b4e9"),
    "series-1": ("#d55e00", "#f0883e"),
    "series-2": ("#008f68", "#3cc9a0"),
    "series-3": ("#882255", "#e58fbf"),
    "series-4": ("#75522b", "#cbb08a"),
    "series-5": ("#332288", "#b3a6ff"),
}
LIGHT, DARK = ({name: pair[place] for name, pair in _COLOURS.items()} for place in (0, 1))

MARKERS = "osD^vPX"
"""One more than colours, so that of 42 series no two look the same."""


def series(index: int) -> str:
    """Return the colour of a contender by its place; the first is the baseline."""
    return LIGHT[f"series-{index % 6}"]


def marker(index: int) -> str:
    """Return the marker of a contender by its place."""
    return MARKERS[index % len(MARKERS)]
