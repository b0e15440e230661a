"""The console script: says what to install if the command line is not."""

import sys

from dualpath.extras import MissingExtra, require


def main() -> None:
    """Run the command line."""
    try:
        require("cli", "typer", "rich", "tritonclient")
    except MissingExtra as error:
        print(f"dualpath: {error}", file=sys.stderr)
        sys.exit(2)
    from dualpath.cli import main as run

    run()


if __name__ == "__main__":
    main()
