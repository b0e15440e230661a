"""The colours of the page and its figures, and the marks that tell contenders apart without colour.

Figures are drawn in the light colours. In the page each of them becomes a CSS variable, which has another value if
the reader prefers dark. Every series has a contrast of 3 to 1 with the paper and every text 4.5 to 1; the series are
after Okabe and Ito, so that colour-blind readers tell the first ones apart, and each has its own marker.
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "raised": "#f5f7f9",
    "ink": "#1b2026",
    "muted": "#57616c",
    "rule": "#c9d0d8",
    "grid": "#e4e8ec",
    "good": "#1a7348",
    "bad": "#b3261f",
    "warn": "#8a5a00",
    "series-0": "#0072b2",
    "series-1": "#d55e00",
    "series-2": "#008f68",
    "series-3": "#882255",
    "series-4": "#75522b",
    "series-5": "#332288",
}

DARK = {
    "paper": "#14171b",
    "raised": "#1c2127",
    "ink": "#e7eaee",
    "muted": "#a0aab5",
    "rule": "#3b434c",
    "grid": "#282e35",
    "good": "#5ecb94",
    "bad": "#ff8c82",
    "warn": "#e3b341",
    "series-0": "#56b4e9",
    "series-1": "#f0883e",
    "series-2": "#3cc9a0",
    "series-3": "#e58fbf",
    "series-4": "#cbb08a",
    "series-5": "#b3a6ff",
}

MARKERS = "osD^vPX"
"""One more than colours, so that of 42 series no two look the same."""


def series(index: int) -> str:
    """Return the colour of a contender by its place; the first is the baseline."""
    return LIGHT[f"series-{index % 6}"]


def marker(index: int) -> str:
    """Return the marker of a contender by its place."""
    return MARKERS[index % len(MARKERS)]
