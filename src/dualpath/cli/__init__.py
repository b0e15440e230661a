"""The command line. Exit codes: 0 good, 1 the run found a failure, 2 wrong use or nothing to run on, 130 Ctrl-C."""

import errno
import os
import sys

import typer

from dualpath import __version__
from dualpath.cli import bench, build, compare, convert, demo, doctor, env, models, releases, score, serve, train
from dualpath.errors import UserError

app = typer.Typer(
    name="dualpath",
    help="One scoring pipeline on NVIDIA Triton, orchestrated as an ensemble and with Business Logic Scripting.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    *(build.init, build.build, serve.serve, score.score, models.models, doctor.doctor, convert.graph, convert.check),
    *(convert.scaffold, releases.reload, releases.prune, demo.demo, compare.compare, bench.bench),
):
    app.command()(command)
app.add_typer(train.app, name="train")
app.add_typer(env.app, name="env")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dualpath {__version__}")
        raise typer.Exit


@app.callback()
def root(version: bool = typer.Option(False, "--version", callback=_version, help="Print the version.")) -> None:
    pass


def main() -> None:
    """Run the command line; turn a UserError into one line and exit code 2."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  None if it was closed by `<&-`; so with the others
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        if sys.stdout is None:
            raise UserError("standard output: expected an open stream, got a closed one. Redirect it to a file.")
        app()
    except UserError as error:
        print(f"dualpath: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = error.filename or "standard output"
        print(f"dualpath: {what}: expected room to write, got: {error.strerror}. Make room.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries again at its end
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
