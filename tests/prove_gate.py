"""Compare a right model with many variants of it: `dualpath compare` has to fail every wrong one and no harmless one.

Prints a line for each variant; the exit code is 1 if the comparison decides one of them otherwise.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dualpath.serving.server import TritonServer
from mutants.build import HARMLESS, WRONG, build, write_rows

EXTRA = ["--backend-config=python,shm-default-byte-size=1048576"]
ROWS = 48
# 1e-4 lies far above float32's rounding here and below what FP16 or BF16 lose; 0.004 is two steps of FP16 at 2 to 4.
OPTIONS = [
    "--concurrency=8",
    "--batch=1,16",
    "--duration=0.5",
    "--timeout=4",
    "--rtol=0",
    "--atol=1e-4",
    "--atol=HALF=0.004",
]
RARE = "one_in_1000_rows_by_its_content"


@contextmanager
def served(names):
    """Serve the right model and the named variants; yield a function that compares one: (exit code, output)."""
    with tempfile.TemporaryDirectory(prefix="dualpath-mutants-") as folder:
        repository, few, many = (Path(folder) / name for name in ("models", "few.json", "many.json"))
        build(repository, names)
        write_rows(few, ROWS)
        if RARE in names:
            write_rows(many, 5000, n_marked=5)
        with TritonServer(
            repository, http_port=0, grpc_port=0, metrics_port=0, server="embedded", extra_args=EXTRA
        ) as server:

            def compare(name):
                command = [sys.executable, "-m", "dualpath", "compare", "right", name, "--url", server.grpc_url]
                rows = many if name == RARE else few
                run = subprocess.run([*command, "--input", rows, *OPTIONS], capture_output=True, text=True, timeout=300)
                if "Traceback" in run.stderr:  # whose exit code is 1, too
                    return "traceback", run.stderr
                return run.returncode, run.stdout + run.stderr

            yield compare


def expected(name):
    """Return the exit code that the comparison with a variant has to end with."""
    return 1 if name in WRONG else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants; else all")
    parser.add_argument("--jobs", type=int, default=2, help="comparisons at the same time")
    parser.add_argument("--verbose", action="store_true", help="print what a comparison said that decided otherwise")
    options = parser.parse_args()
    names = options.only or [*WRONG, *HARMLESS]
    missed = 0
    with served(names) as compare, ThreadPoolExecutor(options.jobs) as pool:
        for name, (code, said) in zip(names, pool.map(compare, names), strict=True):
            met = code == expected(name)
            missed += not met
            kind = "wrong" if name in WRONG else "harmless"
            print(f"{'ok  ' if met else 'MISS'} {kind:8} {name:48} exit code {code}", flush=True)
            if options.verbose and not met:
                print(said[-3000:])
    print(f"{sum(name in WRONG for name in names)} wrong, {sum(name in HARMLESS for name in names)} harmless: ", end="")
    print(f"{missed} decided otherwise")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
