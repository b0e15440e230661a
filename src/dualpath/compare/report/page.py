"""Put a result into the page."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dualpath.compare.report import plots, tables
from dualpath.compare.report.palette import DARK, LIGHT
from dualpath.compare.report.render import Plot, drawing, png, sample, svg
from dualpath.compare.report.timeline import timeline
from dualpath.compare.report.wording import NOTHING, clean, difference
from dualpath.compare.result import Result

NO_VERDICT = "No verdict: too little was measured."

_HERE = Path(__file__).parent


def build_page(result: Result, page: Path, generator: str) -> None:
    """Write the page, which names its generator, and the figures into an existing folder."""
    with drawing():
        speed, traced = plots.speed(result), timeline(result)
        drawn = {
            "speed": [_drawn(plot) for plot in speed],
            "timeline": _drawn(traced) if traced else None,
            "marks": [sample(key, f"mark-{key.place}") for key in plots.contenders(result)],
        }
        for plot in filter(None, (*speed, traced)):
            png(plot, page.with_name(f"{plot.name}.png"))
    page.write_text(_render(result, drawn | {"generator": generator}), encoding="utf-8")


def _drawn(plot: Plot) -> dict[str, Any]:
    return {
        "plot": plot,
        "panels": [svg(panel, plot.size, f"{plot.name}-{i}") for i, panel in enumerate(plot.panels)],
        "legend": [
            (clean(key.label), key.place, sample(key, f"{plot.name}-key-{i}") if key.place is None else "")
            for i, key in enumerate(plot.keys)
        ],
    }


def _render(result: Result, drawn: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["difference"] = difference
    return environment.get_template("page.html.j2").render(
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        light=LIGHT,
        dark=DARK,
        nothing=NOTHING,
        tables=tables,
        result=result,
        verdict=_verdict(result),
        **drawn,
    )


def _verdict(result: Result) -> tuple[str, str]:
    """Return the sentence that stands on top, and what follows it."""
    first, stop, more = clean(result.verdict).replace(" %", "\u00a0%").partition(". ")
    return (first + stop.rstrip() or NO_VERDICT), more


def _shown(value: object) -> str:
    """Return what the template has for a place as the page shows it."""
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, Markup) else clean(value)
