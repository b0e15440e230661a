"""Check a model repository: name what Triton would refuse, and what would run badly, with file and line."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dualpath.convert.models import CONFIG_FILE, Models, Place, RepositoryFault, RepositoryModel, TemplateConfig
from dualpath.convert.wiring import check_wiring
from dualpath.errors import UserError
from dualpath.repository.configs import BACKENDS
from dualpath.repository.pbtxt import Config
from dualpath.repository.pbtxt_fields import BYTE_ORDER_MARK, ConfigSyntaxError

MODEL_FILES = {backend: file for file, backend in BACKENDS.items()}
"""The file that a version needs, by backend, unless `default_model_filename` names another."""
THREADS = {
    "pytorch": "INTRA_OP_THREAD_COUNT",
    "onnxruntime": "intra_op_thread_count",
    "openvino": "CPU_THREADS_NUM",
    "tensorflow": "TF_NUM_INTRA_THREADS",
}
"""The parameter that bounds an instance's threads, by backend. Without it an instance takes all cores."""
CALLERS = ("Child", "BatchedChild", "InferenceRequest")
"""What calls a model: the toolkit's children by their first argument, Triton's request by `model_name`."""
NOT_FOR_ENSEMBLES = {
    "instance_group": "the steps have instances of their own",
    "optimization": "it belongs to the steps",
    "model_warmup": "it belongs to the steps",
    "dynamic_batching": "the steps batch for themselves",
    "sequence_batching": "the steps batch for themselves",
}


def check_repository(repository: Path, n_cores: int) -> list[RepositoryFault]:
    """Return what is wrong in a model repository, by file and line.

    Args:
        repository: the folder of the models.
        n_cores: cores of the machine that serves it.
    Raises:
        UserError: there is no such folder, or no model in it.
    """
    if not repository.is_dir():
        raise UserError(f"{repository}: expected a model repository, got no such folder. Correct the path.")
    models = Models(repository.absolute())
    if not models.names():
        raise UserError(f"{repository}: expected folders of models, got none. Correct the path.")
    return sorted({finding for name in models.names() for finding in check_model(models, name, n_cores)})


def check_model(models: Models, name: str, n_cores: int) -> Iterator[RepositoryFault]:
    """Give the faults of one model."""
    file = models.repository / name / CONFIG_FILE
    try:
        model = models.find(name)
        assert model is not None
        _ = model.message
    except TemplateConfig as template:
        for text, line, _ in template.placeholders:
            yield Place(file, line, name).fault(f"expected a value, got {text} of a template. Fill the template in.")
        return
    except ConfigSyntaxError as error:
        model = _without_second_batcher(file)
        if model is None:
            yield Place(file, error.line, name).fault(str(error).partition(": ")[2])
            return
        models.add(model)
    yield from _files(model)
    yield from _fields(model)
    if model.is_ensemble:
        yield from _ensemble_fields(model)
        with suppress(UserError):  # a step's config that cannot be read is a finding of its own
            yield from list(check_wiring(model, models))
    else:
        yield from _threads(model, n_cores)
        if model.message.backend == "python":
            yield from _children(model, models)


def _without_second_batcher(file: Path) -> RepositoryModel | None:
    """Return an ensemble without the batching that it must not have: protobuf takes one scheduler only."""
    try:
        bare = config = Config.load(file)
        for field in ("dynamic_batching", "sequence_batching"):
            if config.find("ensemble_scheduling") and bare.find(field):
                bare = bare.remove(field)
        model = RepositoryModel(file.parent, file, config, bare)
        _ = model.message
    except ConfigSyntaxError:
        return None
    return model


def _files(model: RepositoryModel) -> Iterator[RepositoryFault]:
    if not model.file.is_file():
        others = sorted(model.folder.glob("**/*.pbtxt"))
        backend_completes = any(model.folder.glob("[0-9]*/model.*"))
        if others and not (model.folder / "configs").is_dir():
            yield model.at().fault(
                f"expected {CONFIG_FILE} in the model's folder, got {others[0].relative_to(model.folder)}. "
                "Move it there."
            )
        elif not backend_completes:
            yield model.at().fault(f"expected {CONFIG_FILE}, got none. Write one, or remove the folder.")
    message = model.message
    if message.name and message.name != model.name:
        yield model.at("name").fault(
            f"name: expected {model.name!r}, the name of the folder, got {message.name!r}. "
            "Write the folder's name, or leave the field out."
        )
    if not model.versions:
        yield model.at().fault("expected a version folder such as 1, got none. Create it; an ensemble's may be empty.")
    for version in model.versions:
        file = message.default_model_filename or MODEL_FILES.get(message.backend)
        folder = model.folder / str(version)
        if file and not model.is_ensemble and not (folder / file).exists():
            yield model.at("default_model_filename" if message.default_model_filename else "backend").fault(
                f"version {version}: expected {folder / file}, got none. Put it there, or remove the folder."
            )


def _fields(model: RepositoryModel) -> Iterator[RepositoryFault]:
    if model.config.text.startswith(BYTE_ORDER_MARK):
        yield model.at().fault(
            "expected a field, got a byte-order mark, which Triton refuses. Save the file without one."
        )
    for unknown in model.config.unknown:
        yield Place(model.file, unknown.line, model.name).fault(
            f"column {unknown.column}: expected a field that Triton's protocol has, got {unknown.name!r}. "
            "Correct the name, or serve it with a Triton that is new enough."
        )
    message = model.message
    for which, tensors in (("input", message.input), ("output", message.output)):
        seen: set[str] = set()
        for i, tensor in enumerate(tensors):
            at, what = model.at(which, i), f"{which} {tensor.name!r}"
            if not tensor.name:
                yield at.fault(f"{which} {i}: expected a name, got none. Add one.")
            elif tensor.name in seen:
                yield at.fault(f"{what}: expected names that differ, got this one twice. Rename one.")
            seen.add(tensor.name)
            if not tensor.data_type:
                yield at.fault(f"{what}: expected a data_type, got none. Add one.")
            if any(size == 0 or size < -1 for size in tensor.dims):
                yield model.at(which, i, "dims").fault(
                    f"{what}: expected dims above 0, or -1 for any, got {list(tensor.dims)}. Correct them."
                )
    if message.max_batch_size < 0:
        yield model.at("max_batch_size").fault(
            f"max_batch_size: expected 0 or more, got {message.max_batch_size}. "
            "Write 0 for tensors without a batch dimension."
        )
    if message.model_transaction_policy.decoupled and message.response_cache.enable:
        yield model.at("response_cache").fault(
            "response_cache: expected none for a decoupled model, got one. Remove it."
        )


def _ensemble_fields(model: RepositoryModel) -> Iterator[RepositoryFault]:
    message = model.message
    if message.backend:
        yield model.at("backend").fault(
            f'backend: expected none for an ensemble, got {message.backend!r}. Write `platform: "ensemble"`.'
        )
    elif message.platform != "ensemble":
        got = repr(message.platform) if message.platform else "none"
        yield model.at("platform").fault(f'platform: expected "ensemble", got {got}. Write `platform: "ensemble"`.')
    for field, why in NOT_FOR_ENSEMBLES.items():
        if model.config.find(field):
            yield model.at(field).fault(f"{field}: expected none for an ensemble, since {why}. Remove it.")


def _threads(model: RepositoryModel, n_cores: int) -> Iterator[RepositoryFault]:
    message = model.message
    parameter = THREADS.get(message.backend)
    count = sum(group.count or 1 for group in message.instance_group if group.kind == group.KIND_CPU)
    if parameter is None or count < 2:
        return
    written = message.parameters[parameter].string_value if parameter in message.parameters else ""
    threads = int(written) if written.isdecimal() and int(written) > 0 else n_cores
    # The stand-in's instances share its threads: one may wait for a core, so that no core waits for the next call.
    spare = 1 if message.backend == "pytorch" and threads == 1 else 0
    if count * threads <= n_cores + spare:
        return
    by_default = "" if written else f", which an instance takes without {parameter}"
    best = max(1, n_cores // count)
    advice = f"Write {parameter} {best}" if count <= n_cores else f"Write count: {n_cores} and {parameter} 1"
    yield model.at("instance_group").fault(
        f"instance_group: expected at most {n_cores + spare} threads on {n_cores} cores, got {count} instances "
        f"of {threads} threads{by_default}. {advice}; more threads wait for each other.",
        fails=False,
    )


def _children(model: RepositoryModel, models: Models) -> Iterator[RepositoryFault]:
    """Give the calls in a model.py whose model is not in the repository: Triton would notice at the first request."""
    for version in model.versions:
        file = model.folder / str(version) / (model.message.default_model_filename or "model.py")
        if not file.is_file():
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError as error:
            place = Place(file, error.lineno or 1, model.name)
            yield place.fault(f"expected Python, got an error: {error.msg}. Correct it.")
            continue
        constants = _constants(tree)
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or (called := _called(call.func)) not in CALLERS:
                continue
            name = _model_name(call, called)
            child = constants.get(ast.unparse(name)) if isinstance(name, ast.Name | ast.Attribute) else name
            if not isinstance(child, ast.Constant) or not isinstance(child.value, str):
                continue  # made at run time
            if models.find(child.value) is None:
                yield Place(file, call.lineno, model.name).fault(
                    f"{called}: expected a model in {models.repository}, got {child.value!r}, which is not there. "
                    "Correct the name, or add the model."
                )


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _model_name(call: ast.Call, called: str) -> ast.expr | None:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if called == "InferenceRequest":
        return named.get("model_name")
    return call.args[0] if call.args else named.get("name")


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what is assigned to names that are assigned once, such as NAME and self.name."""
    seen: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            seen.setdefault(ast.unparse(node.targets[0]), []).append(node.value)
    return {name: values[0] for name, values in seen.items() if len(values) == 1}
