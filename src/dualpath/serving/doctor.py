"""What this machine should be able to serve, looked up: nothing is started, neither torch nor RAPIDS is imported."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dualpath.errors import UserError
from dualpath.readability.contract import BERT, FOREST
from dualpath.repository import folders
from dualpath.serving import environment, gpus, installation, preflight
from dualpath.serving.gpus import Missing
from dualpath.serving.installation import Installation

NEVER_RUN = "never run on a GPU by this project (docs/gpu.md)"
NEVER_RUN_CPP = "fil in C++ was never run by this project"


@dataclass
class Setup:
    """A way to serve the pipeline.

    Attributes:
        name: where what runs, in words.
        command: that serves it.
        server: the Triton that would, or "none".
        engines: what computes: for `bert-large`, `cuml` and the text.
        missing: sentences: what is expected, what was found, what to do.
        never_run: what of it the project never ran; "" if it ran all.
    """

    name: str
    command: str
    server: str
    engines: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    never_run: str = ""

    @property
    def possible(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Diagnosis:
    """What was found: the machine's facts by name, and the set-ups."""

    machine: dict[str, str]
    setups: list[Setup]


def diagnose(model_repository: Path) -> Diagnosis:
    """Look up what of the pipeline can be served here, and what is missing for the rest."""
    servers = ["auto"]
    with suppress(UserError):  # each set-up says so
        if not installation.find().embedded:
            servers.append("embedded")
    return Diagnosis(_machine(), [setup for server in servers for setup in _setups(model_repository, server)])


def _setups(model_repository: Path, server: str) -> Iterator[Setup]:
    places = {
        "all on the CPU": None,
        "models on the GPU, text on the CPU": preflight.TEXT_ON_CPU,
        "all on the GPU": preflight.GPU,
    }
    for name, config_name in places.items():
        option = f" --config-name {config_name}" if config_name else ""
        setup = Setup(name, f"dualpath serve{option}{' --server embedded' if server == 'embedded' else ''}", "none")
        found: Installation | None = None
        with _noted(setup):
            found = installation.find(server)
            setup.server = "embedded, release 24.10" if found.embedded else str(found.binary)
        with _noted(setup):
            models = folders.models(model_repository)
            preflight.check_artifacts(models)
            preflight.check_config_name(models, config_name)
            if found:
                environment.check_attached(models, config_name, found.stub)
        stand_ins = found.missing_backends() if found else ["fil", "pytorch"]
        of_gpu = [gpus.no_gpu(), gpus.no_driver_library() if gpus.gpu_visible() else None] if config_name else []
        text, of_text = _text(config_name == preflight.GPU)
        bert, of_bert = _bert("pytorch" in stand_ins, config_name is not None)
        forest, of_forest = _forest("fil" in stand_ins, config_name is not None)
        setup.engines = {BERT.name: bert, FOREST.name: forest, "text": text}
        setup.missing += dict.fromkeys(str(it) for it in (*of_gpu, of_bert, of_forest, of_text) if it)
        setup.never_run = NEVER_RUN if config_name else "" if "fil" in stand_ins else NEVER_RUN_CPP
        yield setup


@contextmanager
def _noted(setup: Setup) -> Iterator[None]:
    """Note what a check refuses."""
    try:
        yield
    except UserError as error:
        setup.missing.append(str(error))


def _bert(stand_in: bool, on_gpu: bool) -> tuple[str, Missing | None]:
    if not stand_in:
        return "C++ backend pytorch", None
    build = gpus.torch_build()
    if on_gpu:
        return (f"torch {build[0]}, CUDA {build[1] or 'none'}" if build else "torch"), gpus.no_cuda_in_torch()
    torch = f"torch {build[0]}" if build else "torch"
    return f"{openvino} or {torch}" if (openvino := _version("OpenVINO")) else torch, _lacks("models", "torch")


def _forest(stand_in: bool, on_gpu: bool) -> tuple[str, Missing | None]:
    if not stand_in:
        return "C++ backend fil", None
    missing = _lacks("models", "treelite")
    if on_gpu:
        if there := [name for name in gpus.FORESTS if not gpus.not_installed(name)]:
            return there[0], missing
        return f"{_version('treelite')} on the CPU (on the GPU with `pip install 'dualpath[gpu]'`)", missing
    return _version("treelite"), missing


def _text(on_gpu: bool) -> tuple[str, Missing | None]:
    if on_gpu:
        return "cuDF and CuPy", gpus.no_rapids()
    return _version("tokenizers"), _lacks("readability", "tokenizers")


def _lacks(extra: str, package: str) -> Missing | None:
    if not gpus.not_installed(package):
        return None
    return Missing(f"the package {package}", "none", f"Run `pip install 'dualpath[{extra}]'`")


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> dict[str, str]:
    shm = Path("/dev/shm")
    build = gpus.torch_build()
    return {
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "Python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "/dev/shm": f"{shutil.disk_usage(shm).free / 2**30:.1f} GiB free" if shm.is_dir() else "none",
        "GPU": "; ".join(gpus.cards()) or ("one, of which nvidia-smi says nothing" if gpus.gpu_visible() else "none"),
        "torch": f"{build[0]}, {'CUDA ' + build[1] if build[1] else 'no CUDA'}" if build else "none",
        "RAPIDS": ", ".join(filter(None, map(_version, ("cudf-cu13", "cudf-cu12", "nvforest-cu13", "nvforest-cu12"))))
        or "none",
    }
