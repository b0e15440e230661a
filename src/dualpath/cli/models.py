"""`dualpath models`: what a server serves."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualpath.cli.options import DEFAULT_REPOSITORY, DEFAULT_URL, Json, ModelRepository, Url
from dualpath.errors import UserError
from dualpath.readability.contract import BERT, MODELS

COLUMNS = ("model", "version", "state", "backend", "device", "artifact")


def models(json: Json = False, model_repository: ModelRepository = DEFAULT_REPOSITORY, url: Url = DEFAULT_URL) -> None:
    """Show what is served: each model's version, state, backend, device and artifact.

    Artifacts, and what their build and their training said of them, are looked up in the model repository folder, where
    it is the one that the server loads.
    """
    from tritonclient.utils import InferenceServerException

    from dualpath.serving import access
    from dualpath.serving.client import connect
    from dualpath.serving.watch.status import status_of

    client = connect(url)
    try:
        index = client.get_model_repository_index(as_json=True)["models"]
    except InferenceServerException as error:
        reason = str(error.message())
        raise UserError(access.NO_KEY if access.REFUSED in reason else f"--url: {reason}.") from None
    ready = {entry["name"] for entry in index if entry.get("state") == "READY"}
    rows = [_row(client, entry, model_repository) for entry in index if not _is_past(entry, ready)]
    status = status_of(url)
    if status is not None:
        for row in rows:
            row["restarts"] = str(status.restarts.get(row["model"], 0))
            row["last_fault"] = status.faults.get(row["model"], "")
    if json:
        print(json_module.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(row[column] for column in COLUMNS))
    Console().print(table)
    for line in [*([status.line] if status else []), *_cards(rows, model_repository)]:
        print(line)


def _cards(rows: list[dict[str, str]], model_repository: Path) -> Iterator[str]:
    """Say in a line what each training of what is served found, and where its model card is."""
    from dualpath.training.card import CARD_FILE, PAGE_FILE, Card

    trained: dict[str, list[Path]] = {}
    for row in rows:
        folder = model_repository / row["model"] / row["version"]
        if row["state"] == "ready" and (folder / CARD_FILE).is_file():
            trained.setdefault((folder / CARD_FILE).read_text(encoding="utf-8"), []).append(folder)
    for folders in trained.values():
        names = " and ".join(f"{folder.parent.name} {folder.name}" for folder in folders)
        yield f"{names}: {Card.load(folders[0] / CARD_FILE).line}; {folders[0] / PAGE_FILE}"


def _row(client: Any, entry: dict[str, str], model_repository: Path) -> dict[str, str]:
    name, version = entry["name"], entry.get("version", "")
    ready = entry.get("state") == "READY"
    row = dict.fromkeys(COLUMNS, "") | {
        "model": name,
        "version": version,
        "state": "ready" if ready else _reason(entry),
    }
    if ready:
        config = client.get_model_config(name, version, as_json=True)["config"]
        groups = config.get("instance_group", [])
        row["backend"] = config.get("backend") or config.get("platform", "")
        row["device"] = ", ".join(
            f"{group.get('count', 1)} x {group['kind'].removeprefix('KIND_')}" for group in groups
        )
        row["artifact"] = _artifact(name, version, config, model_repository)
    return row


def _is_past(entry: dict[str, str], ready: set[str]) -> bool:
    """Tell whether a version has given way to another that is ready."""
    return entry["name"] in ready and entry.get("state") == "UNAVAILABLE" and entry.get("reason") == "unloaded"


def _reason(entry: dict[str, str]) -> str:
    state = entry.get("state", "not loaded").lower()
    return f"{state}: {entry['reason']}" if entry.get("reason") else state


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
    return f"{version}/{filename} ({', '.join([*_facts(name, folder), size])})"


def _facts(model: str, folder: Path) -> Iterator[str]:
    """Give what is known of a version, a few words each: by its build, or by its training's model card."""
    if (folder / "card.json").is_file():
        from dualpath.training.card import Card

        card = Card.load(folder / "card.json")
        bert = model == BERT.name
        yield from filter(None, (card.encoder, card.precision) if bert else (card.engine,))
        if (error := card.bert_rmse if bert else card.forest_rmse) is not None:
            yield f"RMSE {error:.3f} on {card.data}"
        yield card.date[:10]
    elif (folder / "build.json").is_file():
        built = json_module.loads((folder / "build.json").read_text(encoding="utf-8"))
        yield from (str(built[key]) for key in ("encoder", "precision") if key in built)
