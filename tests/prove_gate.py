"""Compare a right model with many variants of it: `dualpath compare` has to fail every wrong one and no harmless one.

Prints a line for each variant; the exit code is 1 if the comparison decides one of them otherwise.
"""

import argparse
import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tritonclient.utils import InferenceServerException

from dualpath.serving.client import open_client
from dualpath.serving.server import TritonServer
from mutants.build import HARMLESS, WRONG, build, write_rows

EXTRA = ["--backend-config=python,shm-default-byte-size=1048576"]
ROWS = 48
# 1e-4 lies far above float32's rounding here and below what FP16 or BF16 lose; 0.004 is two steps of FP16 at 2 to 4.
OPTIONS = [
    "--concurrency=8",
    "--batch=16",
    "--duration=0.4",
    "--timeout=4",
    "--rtol=0",
    "--atol=1e-4",
    "--atol=HALF=0.004",
]
RARE = "one_in_1000_rows_by_its_content"
RIGHT = "right"


@dataclass(frozen=True)
class Decision:
    """What the comparison of `right` with a variant came to; "traceback" and "not loaded" are no exit codes."""

    name: str
    exit_code: int | str
    said: str
    elapsed_s: float

    @property
    def is_met(self):
        return self.exit_code == (1 if self.name in WRONG else 0)


def decide(url, name, rows):
    """Load a variant, run `dualpath compare` with it in this process, and unload it."""
    started = time.monotonic()
    with contextlib.closing(open_client(url)) as client:
        try:
            client.load_model(name)
        except InferenceServerException as error:
            return Decision(name, "not loaded", str(error), time.monotonic() - started)
        code, said = command("compare", RIGHT, name, "--url", url, "--input", str(rows), *OPTIONS)
        with contextlib.suppress(InferenceServerException):  # whose process has ended, Triton cannot unload
            client.unload_model(name, client_timeout=10)
    return Decision(name, code, said, time.monotonic() - started)


def command(*arguments):
    """Run a command as the console script does, but without a start of Python; return exit code and output."""
    from dualpath.__main__ import main as dualpath
    from dualpath.compare import comparison

    # Each would trace all requests to `right`, those of the others too: a file for each.
    comparison.timelines = lambda *_: ([], [])
    said, sys.argv = io.StringIO(), ["dualpath", *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            dualpath()
    except SystemExit as error:
        return error.code or 0, said.getvalue()
    except Exception:
        return "traceback", traceback.format_exc()
    return 0, said.getvalue()


def decisions(names, jobs=3):
    """Yield what the comparison decides on each of these variants, in their order.

    One server holds `right` and, for as long as it is compared, each variant.
    """
    with tempfile.TemporaryDirectory(prefix="dualpath-mutants-") as folder:
        repository, few, many = (Path(folder) / name for name in ("models", "few.json", "many.json"))
        build(repository, [RIGHT])
        write_rows(few, ROWS)
        if RARE in names:
            write_rows(many, 5000, n_marked=5)
        server = TritonServer(repository, http_port=0, grpc_port=0, metrics_port=0, server="embedded", extra_args=EXTRA)
        with server, ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            build(repository, names)
            rows = [many if name == RARE else few for name in names]
            yield from pool.map(decide, [server.grpc_url] * len(names), names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants; else all")
    parser.add_argument("--jobs", type=int, default=3, help="comparisons at the same time")
    parser.add_argument("--verbose", action="store_true", help="print what a comparison said that decided otherwise")
    options = parser.parse_args()
    names = options.only or [*WRONG, *HARMLESS]
    missed = 0
    for it in decisions(names, options.jobs):
        missed += not it.is_met
        kind = "wrong" if it.name in WRONG else "harmless"
        mark = "ok  " if it.is_met else "MISS"
        print(f"{mark} {kind:8} {it.name:48} exit code {it.exit_code}, {it.elapsed_s:.1f} s", flush=True)
        if options.verbose and not it.is_met:
            print(it.said[-3000:])
    print(f"{sum(name in WRONG for name in names)} wrong, {sum(name in HARMLESS for name in names)} harmless: ", end="")
    print(f"{missed} decided otherwise")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
