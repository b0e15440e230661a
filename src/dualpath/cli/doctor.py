"""`dualpath doctor`: what can this machine serve, and what is missing for the rest?"""

import dataclasses
import json

from typer import Exit

from dualpath.cli.options import DEFAULT_REPOSITORY, Json, ModelRepository


def doctor(model_repository: ModelRepository = DEFAULT_REPOSITORY, as_json: Json = False) -> None:
    """Show what this machine should be able to serve, on the CPU and on a GPU: by which server, engine and backend.

    What is missing is named with how to get it, and what this project never ran is called so. Nothing is started: a
    driver too old for an installed CUDA, for example, shows only when the server starts. Exit code 1: nothing can be
    served.
    """
    from dualpath.serving.doctor import diagnose

    found = diagnose(model_repository)
    if as_json:
        setups = [dataclasses.asdict(setup) | {"possible": setup.possible} for setup in found.setups]
        print(json.dumps({"machine": found.machine, "setups": setups}, indent=2))
    else:
        for name, fact in found.machine.items():
            print(f"{name:9} {fact}")
        for setup in found.setups:
            can = "no" if setup.missing else f"should be possible, {setup.never_run}" if setup.never_run else "yes"
            print(f"\n{setup.name}: {can}")
            print(f"  command    {setup.command}")
            print(f"  Triton     {setup.server}")
            for what, engine in setup.engines.items():
                print(f"  {what:10} {engine or 'none'}")
            for missing in setup.missing:
                print(f"  missing    {missing}")
    raise Exit(0 if any(setup.possible for setup in found.setups) else 1)
