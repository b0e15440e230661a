"""Build the files that the model repository serves but does not carry.

`bert-large` gets a version with model.pt and tokenizer.json, `cuml` one with checkpoint.tl and word_lists.json. A
version's facts say what it was made from, so that a second build knows if there is anything to do.
"""

import dataclasses
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from dualpath import __version__
from dualpath.errors import UserError
from dualpath.extras import installed
from dualpath.readability.contract import BERT, FOREST, MAX_BATCH_SIZE
from dualpath.repository.facts import Facts, digests
from dualpath.repository.folders import newest
from dualpath.repository.publishing import check_target, publish
from dualpath.training.bert import encoders

DATA_FOLDER = Path(__file__).parent / "data"
HEAD, TABLE = DATA_FOLDER / "bert_head.npz", DATA_FOLDER / "forest_table.npz"

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
"""What BERT computes in. float16 is for GPUs: a CPU gives the same scores in it, and takes several times as long.
int8 is for OpenVINO: torch takes longer with it than in float32."""
ENCODER_SHAPES = ("minilm", "bert-large")
"""The default encoder, and the architecture of bert-large-uncased with random weights, which is there to be timed."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What a version is made from, and by file name what writes each file to a path, in the order of writing."""

    facts: Facts
    makers: Mapping[str, Callable[[Path], None]]


@dataclass(frozen=True)
class Artifact:
    """A file of the model repository and what it took to have it there."""

    model: str
    path: Path
    n_bytes: int
    elapsed_s: float
    up_to_date: bool


def build(
    model_repository: Path,
    precision: str = "float32",
    force: bool = False,
    report: Report = lambda line: None,
    encoder_shape: str = "minilm",
) -> list[Artifact]:
    """Build the default models' artifacts as a new release, or find them up to date.

    A model that was trained stays as it is, unless `force`.

    Args:
        precision: of the encoder; its pooling and head are always float32.
        report: gets a line before each step.
    Raises:
        UserError: no such model repository, precision or shape, a missing package, or an encoder with other weights.
        RuntimeError: an exported model does not score what the original scores.
    """
    choices = (("precision", precision, PRECISIONS), ("encoder shape", encoder_shape, ENCODER_SHAPES))
    for what, found, known in choices:
        if found not in known:
            raise UserError(f"{what}: expected {' or '.join(known)}, got {found!r}. Choose one of them.")
    check_target(model_repository, (BERT.name, FOREST.name))
    recipes = {BERT.name: _bert(encoder_shape, precision), FOREST.name: _forest()}
    elapsed_s: dict[tuple[str, str], float] = {}

    def write(model: str, folder: Path) -> Facts:
        for name, make in recipes[model].makers.items():
            report(f"{model}: building {name}")
            start = time.perf_counter()
            make(folder / name)
            elapsed_s[model, name] = time.perf_counter() - start
        return recipes[model].facts

    wanted = {}
    for model, recipe in recipes.items():
        if not force and (reason := _stays(newest(model_repository / model), recipe)):
            report(f"{model}: {reason}")
        else:
            wanted[model] = partial(write, model)
    if wanted:
        publish(model_repository, wanted, report)
    artifacts = []
    for model, recipe in recipes.items():
        for name in recipe.makers:
            path, seconds = newest(model_repository / model) / name, elapsed_s.get((model, name))
            artifacts.append(Artifact(model, path, path.stat().st_size, seconds or 0.0, up_to_date=seconds is None))
    return artifacts


def build_for_parent(model_repository: Path, encoder_shape: str, precision: str, connection: Connection) -> None:
    """Build in a process of its own: send each line of progress, and at the end the error or None."""

    def stop(*_: object) -> None:
        raise SystemExit  # which removes what is half built

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        build(model_repository, precision, report=connection.send, encoder_shape=encoder_shape)
    except Exception as error:
        connection.send(error)
    else:
        connection.send(None)


def build_openvino(model_repository: Path) -> Artifact:
    """Write the newest BERT for Triton's C++ `openvino` backend, into a folder beside the model repository.

    Raises:
        EngineError: OpenVINO is not installed or cannot run this model.
    """
    from dualpath.inference.conversion import export
    from dualpath.inference.model import Input

    start = time.perf_counter()
    repository = model_repository.resolve()
    folder = repository.with_name(f"{repository.name}.openvino") / BERT.name
    inputs = {tensor.name: Input("int64", (-1, *tensor.dims)) for tensor in BERT.inputs}
    model = newest(model_repository / BERT.name) / "model.pt"
    path = export(model, folder, inputs, BERT.outputs[0].name, MAX_BATCH_SIZE)
    n_bytes = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return Artifact(BERT.name, path, n_bytes, time.perf_counter() - start, up_to_date=False)


def _stays(version: Path, recipe: Recipe) -> str | None:
    """Say why a model's newest version needs no successor; None if it needs one."""
    facts = Facts.of(version)
    if facts.damaged(version) or not all((version / name).is_file() for name in recipe.makers):
        return None
    if facts.training:
        return f"version {version.name} was trained and stays; --force builds the default model as a new version"
    return "up to date" if dataclasses.replace(facts, artifacts={}) == recipe.facts else None


def _bert(encoder_shape: str, precision: str) -> Recipe:
    versions = installed(encoders.MINILM_PACKAGE, "tokenizers", "torch", "transformers")
    encoder = encoders.minilm_folder()  # its vocabulary is bert-large-uncased's too
    trained = encoder_shape == "minilm"

    def model(path: Path) -> None:
        from dualpath.training.bert.export import export_regressor, set_precision
        from dualpath.training.bert.regressor import Head, Regressor, load_encoder, untrained_bert_large

        regressor = Regressor(load_encoder(encoder), Head.load(HEAD)) if trained else untrained_bert_large()
        set_precision(regressor.encoder, precision)
        export_regressor(regressor, path)

    weights = [encoder / "config.json", encoder / "model.safetensors", HEAD] if trained else []
    facts = Facts(
        encoder=encoders.MINILM_NAME if trained else f"{encoder_shape}, random weights",
        precision=precision,
        inputs=digests(encoder / "tokenizer.json", *weights),
        versions={**versions, "dualpath": __version__},
    )
    return Recipe(facts, {"model.pt": model, "tokenizer.json": partial(encoders.write_tokenizer, encoder)})


def _forest() -> Recipe:
    def checkpoint(path: Path) -> None:
        from dualpath.readability.features import features
        from dualpath.training.forest import ForestTable, export_forest, fit_forest

        table = ForestTable.load(TABLE)
        export_forest(fit_forest(table), features(table.counts), path)

    def word_lists(path: Path) -> None:
        from dualpath.training.forest import ForestTable

        path.write_text(ForestTable.load(TABLE).word_lists.to_json(), encoding="utf-8")

    versions = {**installed("scikit-learn", "treelite"), "dualpath": __version__}
    return Recipe(
        Facts(inputs=digests(TABLE), versions=versions), {"checkpoint.tl": checkpoint, "word_lists.json": word_lists}
    )
