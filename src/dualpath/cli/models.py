"""`dualpath models`: what a server serves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Json, ModelRepository, Url
from dualpath.errors import UserError
from dualpath.inference.served import engines
from dualpath.readability.contract import BERT, MODELS
from dualpath.repository.facts import Facts

METRICS_PORT = 8002
"""Where `dualpath serve` and Triton have their metrics unless they are told otherwise."""
SHOWN_COLUMNS = ("model", "version", "state", "backend", "device", "artifact")


def models(
    as_json: Json = False, model_repository: ModelRepository = DEFAULT_REPOSITORY, url: Url = DEFAULT_URL
) -> None:
    """Show what is served: each model's version, state, backend, device and artifact; then the releases that are there.

    A backend is the stand-in that comes with Dualpath, or Triton's own in C++. Artifacts and releases are looked up in
    the model repository folder, if it is the one that the server loads.
    """
    from tritonclient.utils import InferenceServerException

    from dualpath.repository import folders, releases
    from dualpath.serving import access
    from dualpath.serving.client import connect
    from dualpath.serving.watch.endpoint import status_of

    client = connect(url)
    try:
        index = client.get_model_repository_index(as_json=True)["models"]
    except InferenceServerException as error:
        reason = str(error.message())
        raise UserError(
            access.NO_KEY
            if access.REFUSED in reason
            else f"--url: expected the models, got: {reason}. Look at its log."
        ) from None
    ready = {entry["name"] for entry in index if entry.get("state") == "READY"}
    given_way = {"state": "UNAVAILABLE", "reason": "unloaded"}  # to another version, if that is ready
    current = (entry for entry in index if entry["name"] not in ready or not given_way.items() <= entry.items())
    rows = [_row(client, entry, model_repository) for entry in current]
    running = engines(f"http://{url.rpartition(':')[0]}:{METRICS_PORT}/metrics")
    for row in rows:
        if engine := running.get(f"{row['model']}:{row['version']}"):
            row["backend"] += f" ({engine})"
    status = status_of(url)
    if status is not None:
        for row in rows:
            row["restarts"] = str(status.restarts.get(row["model"], 0))
            row["last_fault"] = status.faults.get(row["model"], "")
    loaded = {(row["model"], row["version"]) for row in rows if row["state"] == "ready"}
    known = {(row["model"], row["version"]) for row in rows}
    for name in sorted(model.name for model in MODELS if model.artifact):
        for folder in folders.filled(model_repository / name):
            if not folder.is_symlink() and (name, folder.name) not in known:
                artifact = _artifact(name, folder.name, {}, model_repository)
                rows.append(_empty(name, folder.name, "on disk") | {"artifact": artifact})
    there = releases.releases(model_repository) if model_repository.is_dir() else []
    members = {model.name for model in releases.members(model_repository)} if there else set()
    served = [each for each in there if all((member, str(each)) in loaded for member in members)]
    if as_json:
        listed = [{"release": each, "served": each in served} for each in there]
        print(json.dumps({"models": rows, "releases": listed}, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(column, overflow="fold") for column in SHOWN_COLUMNS))
    for row in rows:
        cells = row | {"backend": f"{row['backend']} ({row['runtime']})" if row["runtime"] else row["backend"]}
        table.add_row(*(cells[column] for column in SHOWN_COLUMNS))
    Console().print(table)
    if there:
        print(f"Releases: {', '.join(f'{each} (served)' if each in served else str(each) for each in there)}.")
    for line in [*([status.line] if status else []), *_cards(rows, model_repository)]:
        print(line)


def _cards(rows: list[dict[str, str]], model_repository: Path) -> Iterator[str]:
    """Say in a line what each training of what is served found, and where its model card is."""
    from dualpath.training.card import PAGE_FILE, Card

    trained: dict[str, list[Path]] = {}
    for row in rows:
        folder = model_repository / row["model"] / row["version"]
        if row["state"] == "ready" and (facts := Facts.of(folder)).training:
            trained.setdefault(Card.of(facts).line, []).append(folder)
    for line, folders in trained.items():
        names = " and ".join(f"{folder.parent.name} {folder.name}" for folder in folders)
        yield f"{names}: {line}; {folders[0] / PAGE_FILE}"


def _row(client: Any, entry: dict[str, str], model_repository: Path) -> dict[str, str]:
    name, version = entry["name"], entry.get("version", "")
    ready = entry.get("state") == "READY"
    state = entry.get("state", "not loaded").lower()
    row = _empty(name, version, f"{state}: {entry['reason']}" if entry.get("reason") and not ready else state)
    if ready:
        config = client.get_model_config(name, version, as_json=True)["config"]
        groups = config.get("instance_group", [])
        row["backend"] = config.get("backend") or config.get("platform", "")
        row["runtime"] = _runtime(row["backend"], config)
        row["device"] = ", ".join(
            f"{group.get('count', 1)} x {group['kind'].removeprefix('KIND_')}" for group in groups
        )
        row["artifact"] = _artifact(name, version, config, model_repository)
    elif version and (model_repository / name / version).is_dir():
        row["artifact"] = _artifact(name, version, {}, model_repository)
    return row


def _empty(name: str, version: str, state: str) -> dict[str, str]:
    return dict.fromkeys((*SHOWN_COLUMNS, "runtime"), "") | {"model": name, "version": version, "state": state}


def _runtime(backend: str, config: dict[str, Any]) -> str:
    """Say what a backend is written in: Triton's own libraries, or the stand-in that takes the place of one."""
    if config.get("platform") == "ensemble" or backend == "python":
        return ""
    return "stand-in" if config.get("runtime") == "model.py" else "C++"


def _artifact(name: str, version: str, config: dict[str, Any], model_repository: Path) -> str:
    from rich import filesize

    default = next((model.artifact for model in MODELS if model.name == name), None)
    filename = config.get("default_model_filename") or default
    if not filename:
        return ""
    folder = model_repository / name / version
    if not (folder / filename).is_file():
        return f"{version}/{filename}"
    size = filesize.decimal((folder / filename).stat().st_size)
    return f"{version}/{filename} ({', '.join([*_facts(name, Facts.of(folder)), size])})"


def _facts(model: str, facts: Facts) -> Iterator[str]:
    """Give what is known of a version, a few words each."""
    yield from filter(None, (facts.encoder, facts.precision))
    if facts.training:
        from dualpath.training.card import Card

        card = Card.of(facts)
        bert = model == BERT.name
        if not bert and card.engine:
            yield card.engine
        if (error := card.bert_rmse if bert else card.forest_rmse) is not None:
            yield f"RMSE {error:.3f} on {card.data}"
        yield card.date[:10]
