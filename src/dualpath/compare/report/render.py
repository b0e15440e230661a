"""Draw a plot twice: as SVG panels that take the page's colours and width, and as one PNG for slides and messages."""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from dualpath.compare.report.palette import LIGHT, marker, series
from dualpath.compare.report.wording import short

PIXELS = 96  # to the inch, in CSS
DPI = 160  # of PNGs
LONGEST_KEY = 80  # characters

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; in the page the page's own font takes its place
    "font.size": 8.5,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a model's name may have dollar signs
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["rule"],
    "ytick.color": LIGHT["rule"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dualpath",  # the same figure is the same file
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, what it shows in words, and how it is drawn."""

    title: str
    alt: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Key:
    """What a line means: that of a contender, by its place, a line style of all, or the mark of a doubtful figure."""

    label: str
    place: int | None = None
    style: str = "-"
    doubtful: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """How matplotlib draws it."""
        if self.doubtful:
            return {"linestyle": "", "marker": "o", **face(doubtful=True)}
        if self.place is None:
            return {"color": LIGHT["ink"], "linestyle": self.style}
        return mark(self.place)


@dataclass(frozen=True)
class Plot:
    """A figure of panels, each of a `size` in CSS pixels; `name` is its file's, and `caption` says how to read it."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    keys: Sequence[Key]
    size: tuple[int, int] = (400, 250)


def mark(place: int) -> dict[str, Any]:
    """Return the colour and marker of a contender by its place."""
    return {"color": series(place), "marker": marker(place)}


def face(hollow: bool = False, doubtful: bool = False) -> dict[str, Any]:
    """Return how a marker is filled: with its colour, hollow, or in grey if its figure is in doubt."""
    grey = {"markerfacecolor": LIGHT["rule"], "markeredgecolor": LIGHT["muted"]} if doubtful else {}
    return {**grey, "markerfacecolor": LIGHT["paper"]} if hollow else grey


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the report's style, silent about letters that the PNG's font lacks."""
    with style.context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def svg(panel: Panel, size: tuple[int, int], name: str) -> Markup:
    """Return a panel as SVG to be put into the page, its colours CSS variables and its ids beginning with `name`."""
    figure = Figure((size[0] / PIXELS, size[1] / PIXELS), layout="constrained")
    panel.draw(figure.subplots())
    return _inline(figure, name, Markup('role="img" aria-label="{}"').format(panel.alt))


def sample(key: Key, name: str) -> Markup:
    """Return the piece of line that stands before a label in the page."""
    figure = Figure((30 / PIXELS, 14 / PIXELS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-1.3, 1.3)
    axes.plot((-1, 0, 1), (0, 0, 0), markevery=[1], **key.line)
    return _inline(figure, name, Markup('aria-hidden="true"'))


def png(plot: Plot, path: Path) -> None:
    """Save a plot, all panels, with its title and keys."""
    columns = min(3, len(plot.panels))
    lines = -(-len(plot.panels) // columns)
    across, keys_width, keys_height = _columns(plot.keys, columns * plot.size[0]) if plot.keys else (1, 0.0, 0.0)
    head = 32 + keys_height  # for the title and the keys
    width, height = max(columns * plot.size[0], keys_width) + 20, lines * plot.size[1] + head
    figure = Figure((width / PIXELS, height / PIXELS), facecolor=LIGHT["paper"])
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height), w_pad=0.1, h_pad=0.1)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel, axes in zip(plot.panels, grid, strict=False):
        panel.draw(axes)
    for axes in grid[len(plot.panels) :]:
        axes.set_visible(False)
    figure.text(10 / width, 1 - 12 / height, plot.title, size=11, weight="bold", va="top")
    if plot.keys:
        _legend(figure, plot.keys, across, 1 - 28 / height)
    figure.savefig(path, dpi=DPI)


def _columns(keys: Sequence[Key], width: float) -> tuple[int, float, float]:
    """Return in how many columns keys fit a width in CSS pixels, one at least, and how wide and high they are then."""
    figure = Figure(dpi=DPI)  # at another, letters have other widths
    for across in range(len(keys), 0, -1):
        legend = _legend(figure, keys, across, 1)
        box = legend.get_window_extent()
        legend.remove()
        keys_width, keys_height = box.width * PIXELS / DPI, box.height * PIXELS / DPI
        if keys_width <= width:
            break
    return across, keys_width, keys_height


def _legend(figure: Figure, keys: Sequence[Key], across: int, top: float) -> Legend:
    handles = [Line2D([], [], label=short(key.label, LONGEST_KEY), **key.line) for key in keys]
    return figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, top), ncols=across, handlelength=2.4, borderaxespad=0.5
    )


def _inline(figure: Figure, name: str, attributes: Markup) -> Markup:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    _, _, viewbox, rest = re.split(r'<svg [^>]*?(viewBox="([^"]*)")[^>]*>', text, maxsplit=1)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", rest)
    for colour, value in LIGHT.items():
        rest = rest.replace(value, f"var(--{colour})")
    width, height = viewbox.split()[2:]
    return Markup(f'<svg viewBox="{viewbox}" width="{float(width) / 0.75:g}" height="{float(height) / 0.75:g}" ') + (
        attributes + Markup(">") + Markup(rest)
    )
