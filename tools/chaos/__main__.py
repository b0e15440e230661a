"""Break a served pipeline in every way that one machine allows, and say what its callers saw.

Usage: python tools/chaos [PATTERN]   only the rows whose name the regular expression finds; all take about 15 minutes

Exit status: 0 if every bound was held, 1 if one was missed, 2 if the pattern finds no row.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain

import damage
import faults
import hostile
import overload
import slopes
import starts
from rich.console import Console
from rich.table import Table
from row import Found, Row, Stage


def rows() -> Iterator[Row]:
    """Give all rows, in the order of the table."""
    return chain(*(it.rows() for it in (faults, starts, damage, overload, hostile, slopes)))


def main(pattern: str = "") -> int:
    """Run the rows and print the table."""
    console = Console(width=max(150, Console().width), highlight=False)
    chosen = [row for row in rows() if re.search(pattern, row.name)]
    if not chosen:
        names = "\n  ".join(row.name for row in rows())
        print(f"chaos: expected a pattern that finds a row, got {pattern!r}. The rows:\n  {names}", file=sys.stderr)
        return 2
    table = Table("fault", "bound", "seen", "")
    n_missed, began, load = 0, time.monotonic(), os.getloadavg()[0]
    with closing(Stage()) as stage:
        try:
            for row in chosen:
                since = time.monotonic()
                try:
                    found = row.measure(stage)
                except Exception as error:  # a row that cannot be measured has missed its bound
                    found = Found(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False)
                    stage.close()
                n_missed += not found.good
                verdict = "held" if found.good else "MISSED"
                table.add_row(row.name, row.bound, found.seen, verdict)
                line = f"{verdict:6} {time.monotonic() - since:3.0f} s  {row.name}: {found.seen}"
                console.print(line, markup=False, soft_wrap=True)
        finally:
            console.print(table)
    elapsed_s = time.monotonic() - began
    console.print(f"{len(chosen)} rows, {n_missed} missed, in {elapsed_s:.0f} s; the machine's load before: {load:.1f}")
    return int(n_missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
