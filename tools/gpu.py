"""`make gpu`: all that is to be known of the pipeline on a GPU, part by part, into one JSON and one Markdown file.

A part that fails is noted and the next one goes on; each can be run alone (--only). With --wheels it first installs
what it needs from a folder, without a network. Without a GPU it says so, exit code 2; --rehearse runs every part all
the same, with torch's CPU in the GPU's place, to see that the script works.

Exit codes: 0 all parts ran, 1 one failed, 2 no GPU or wrong use.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    *("machine", "tests", "parity", "hops", "copies", "in-process"),
    *("speed-minilm", "speed-bert-large", "styles", "chunk-rows", "memory"),
)
TESTS_NEED = ("hypothesis", "pytest")
PART_TIMEOUT_S = 3600
STOP_TIMEOUT_S = 30
ENOUGH = 0.9
"""Of the rows a second of the same model.pt in process: what the served pipeline is to reach at batch 512."""

Report = dict[str, Any]


def main() -> int:
    arguments = read_arguments()
    if arguments.part:
        return run_part(arguments)
    if not arguments.rehearse and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        print(
            "make gpu: expected a GPU, got no /dev/nvidia0. Try the script with `make gpu REHEARSE=1`.", file=sys.stderr
        )
        return 2
    if arguments.wheels and Path(sys.prefix) != arguments.environment.resolve():
        python = install(arguments.wheels.resolve(), arguments.environment.resolve())
        build = [str(python), "-m", "dualpath", "build", "--model-repository", str(arguments.model_repository)]
        subprocess.run(build, check=True)
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    return run_all(arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"parts to run, of {', '.join(NAMES)}", default=",".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for gpu.json, gpu.md and logs")
    parser.add_argument("--wheels", type=Path, help="install from this folder, without a network, first")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-gpu", help="where --wheels installs to")
    parser.add_argument("--rehearse", action="store_true", help="no GPU: torch's CPU in its place")
    parser.add_argument("--input", type=Path, help="excerpts, as for `dualpath bench`; else the built-in ones")
    parser.add_argument("--model-repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--work-dir", type=Path, help="where encoders are built and kept")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        if name not in NAMES:
            parser.error(f"--only: expected parts of {', '.join(NAMES)}, got {name!r}. Name some of these.")
    return arguments


def install(wheels: Path, environment: Path) -> Path:
    """Make an environment from a folder of wheels. A torch of the running Python serves if the folder has none."""
    own_torch = [] if any(wheels.glob("torch-*.whl")) else ["--system-site-packages"]
    subprocess.run([sys.executable, "-m", "venv", *own_torch, environment], check=True)
    python = environment / "bin" / "python"
    extras = "cli,compare,embedded,models" + (",gpu" if any(wheels.glob("cudf_*.whl")) else "")
    offline = ["--no-index", "--find-links", str(wheels)]
    subprocess.run([str(python), "-m", "pip", "install", *offline, f"dualpath[{extras}]", *TESTS_NEED], check=True)
    return python


def run_all(arguments: argparse.Namespace) -> int:
    """Run the parts, each in a process of its own, and write the files after each."""
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report: Report = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "rehearsal": arguments.rehearse,
        "python": sys.version.split()[0],
        "parts": {},
    }
    try:
        for name in arguments.only.split(","):
            print(f"{name} ...", end=" ", flush=True)
            report["parts"][name] = part = in_own_process(name, out)
            print(f"{part['status']}, {part['elapsed_s']:.0f} s{': ' + part['why'] if part['why'] else ''}", flush=True)
            write(report, out)
    except KeyboardInterrupt:
        print("stopped")
        return 130
    print(f"Written: {out / 'gpu.json'}, {out / 'gpu.md'}")
    return int(any(part["status"] == "failed" for part in report["parts"].values()))


def in_own_process(name: str, out: Path) -> Report:
    """Run one part; whatever becomes of it, return what is known."""
    result = out / f"{name}.json"
    result.unlink(missing_ok=True)
    started = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--part", name],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(PART_TIMEOUT_S)
            ended = f"ended with exit code {process.returncode}, see {log.name}"
        except subprocess.TimeoutExpired:
            ended = f"took over {PART_TIMEOUT_S} s"
        finally:
            stop(process)
    part: Report = {"status": "failed", "why": ended, "rows": [], "facts": {}, "wrong": []}
    if result.is_file():
        part = json.loads(result.read_text())
    return part | {"elapsed_s": time.monotonic() - started}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part that still runs, and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            return


def run_part(arguments: argparse.Namespace) -> int:
    """Run one part in this process and write what it found."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its servers are stopped
    import gpu_parts
    from gpu_settings import Found, Settings, Skip

    from dualpath.compare.bench_servers import default_work_dir

    settings = Settings(
        arguments.model_repository.resolve(),
        arguments.out.resolve(),
        arguments.work_dir or default_work_dir(),
        arguments.input,
        arguments.rehearse,
    )
    found = Found()
    status, why = "ok", ""
    try:
        found = gpu_parts.PARTS[arguments.part](settings)
        if found.wrong:
            status, why = "failed", "; ".join(found.wrong)
    except Skip as skip:
        status, why = "not run", str(skip)
    except Exception as error:
        import traceback

        traceback.print_exc()
        status, why = "failed", f"{type(error).__name__}: {error}"
    told = dataclasses.asdict(found) | {"status": status, "why": why}
    (arguments.out / f"{arguments.part}.json").write_text(json.dumps(told, indent=1, default=str))
    return 0


def write(report: Report, out: Path) -> None:
    """Write both files, anew."""
    report["bounds"] = bounds(report["parts"])
    (out / "gpu.json").write_text(json.dumps(report, indent=1))
    (out / "gpu.md").write_text("\n".join(lines(report)) + "\n")


def bounds(parts: Report) -> list[Report]:
    """Compare what is served at the largest batch with the same model.pt in process."""
    alone = {key(row): row["rows/s"] for row in parts.get("in-process", {}).get("rows", []) if row.get("rows/s")}
    served = [row for name, part in parts.items() if name.startswith("speed-") for row in part["rows"]]
    largest = max((row["batch"] for row in served), default=0)
    return [
        {**dict(zip(("shape", "precision", "batch"), key(row), strict=True)), "set-up": row["set-up"]}
        | {
            "of the rows/s in process": row["rows/s"] / alone[key(row)],
            "enough": row["rows/s"] >= ENOUGH * alone[key(row)],
        }
        for row in served
        if row["batch"] == largest and key(row) in alone
    ]


def key(row: Report) -> tuple[str, str, int]:
    return row["shape"], row["precision"], row["batch"]


def lines(report: Report) -> list[str]:
    """Return the report in Markdown."""
    parts = report["parts"]
    said = ["# The pipeline on a GPU", ""]
    if report["rehearsal"]:
        said += ["**A rehearsal without a GPU: torch's CPU played it. No figure here is a GPU's.**", ""]
    said += [f"{report['started']}, Python {report['python']}", ""]
    said += table(
        [{"part": name, **{k: part[k] for k in ("status", "elapsed_s", "why")}} for name, part in parts.items()]
    )
    if report["bounds"]:
        said += ["## Served, compared with model.pt in process", "", *table(report["bounds"])]
    for name, part in parts.items():
        said += [f"## {name}", "", *(f"- {fact}: {value}" for fact, value in part["facts"].items()), ""]
        said += table(part["rows"])
    return said


def table(rows: list[Report]) -> list[str]:
    """Return rows as a Markdown table, with the columns of all of them."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    rule = ["---"] * len(columns)
    return [*(f"| {' | '.join(row)} |" for row in (columns, rule, *cells)), ""] if rows else []


def cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
