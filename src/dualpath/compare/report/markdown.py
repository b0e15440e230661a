"""A result in Markdown, as a pull request shows it."""

from collections.abc import Sequence

from dualpath.compare.report.wording import clean, factor
from dualpath.compare.result import Result
from dualpath.compare.verdict import doubt

SIGNS = {"passed": "✅", "failed": "❌", "undecided": "❔"}


def markdown(result: Result) -> str:
    """Return the verdict, the gate, what does not agree, and a row for each contender under each load."""
    sign = {0: "✅", 3: "❔"}.get(result.exit_code, "❌")
    parts = [f"## {sign} {_cell(result.title)}", clean(result.verdict)]
    if result.gate:
        rows = [
            [
                f"{SIGNS[it.outcome]} {it.outcome}",
                it.condition,
                it.load,
                " ".join(factor(it.ratio)) if it.ratio else "",
                it.why,
            ]
            for it in result.gate
        ]
        parts.append(_table(["gate", "condition", "load", "ratio [95 %]", ""], rows))
    if wrong := [parity for parity in result.parity if not parity.ok]:
        rows = [[it.output, str(worst)] for it in wrong for worst in it.worst]
        parts.append(_table(["output", "does not agree"], rows))
    rows = []
    for cell in result.cells:
        for name, measured in cell.measured.items():
            compared = cell.compared.get(name)
            ratios = [" ".join(factor(it)) for it in (compared.throughput, compared.p50)] if compared else ["", ""]
            why = doubt(cell, name, result.contenders[0]) if compared else ""
            p50, p99 = (f"{measured.latencies_ms[it]:.1f}" if measured.latencies_ms else "" for it in (50, 99))
            failed = str(measured.n_failed)
            rows.append(
                [str(cell.load), name, f"{measured.rows_per_s:.4g}", ratios[0], p50, p99, ratios[1], failed, why]
            )
    if rows:
        heads = ["load", "", "rows/s", "ratio [95 %]", "p50 ms", "p99 ms", "p50 ratio [95 %]", "failed", ""]
        parts.append(_table(heads, rows))
    parts += [f"- {clean(note)}" for note in result.notes]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return clean(text).replace("|", "\\|").replace("<", "&lt;")
