"""TorchScript files converted to OpenVINO's format, each once: what was found is kept in the user's cache; written for
Triton's own C++ `openvino` backend, which the embedded server does not have.

Converting needs torch, and comparing with torch needs both engines: they do it in a process that ends, so that a server
never holds that memory. Cached is the converted model; compiling it takes half a second.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dualpath.inference import openvino_model
from dualpath.inference.model import EngineError, Input

FINDING, MODEL, WEIGHTS = "finding.json", "model.xml", "model.bin"
N_KEPT = 8
"""Models that the cache keeps, those used last."""

_CONFIG = """\
# The BERT regressor for Triton's C++ `openvino` backend: what the stand-in for `pytorch` computes with, without Python.
# Written by `dualpath build --format openvino`. It was never run there: the embedded server lacks that backend.
name: "{name}"
backend: "openvino"
max_batch_size: {max_batch_size}
input [
{inputs}
]
output [
  {{ name: "{output}", data_type: TYPE_FP32, dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
dynamic_batching {{ }}
parameters {{ key: "NUM_STREAMS" value {{ string_value: "{streams}" }} }}
parameters {{ key: "INFERENCE_NUM_THREADS" value {{ string_value: "{streams}" }} }}
"""


@dataclass(frozen=True)
class Finding:
    """What converting a model found.

    Attributes:
        precision: that the model computes in: "float32" or "bfloat16".
        reason: why OpenVINO cannot run the model or must not; None if it can.
        slower: that torch was the faster one here; None if it was not.
        largest_difference: between the two engines' answers to the sample, over the size of the answers.
        ms: by engine, the processor's time for a call of the sample's largest size.
        model: the converted model; not in what is written.
    """

    precision: str = ""
    reason: str | None = None
    slower: str | None = None
    largest_difference: float | None = None
    ms: dict[str, float] | None = None
    model: Path = Path()


def convert(path: Path, inputs: Sequence[Input], n_outputs: int = 1, cache: Path | None = None) -> Finding:
    """Convert a TorchScript file and compare the answers, or take from the cache what was found before.

    Args:
        inputs: the model's, in their order.
        cache: where the models are kept; `cache_folder` if None.
    """
    for number, tensor in enumerate(inputs):
        if tensor.dtype not in ("int32", "int64", "float32"):
            return Finding(reason=f"input {number} is {tensor.dtype}")
    if n_outputs != 1:
        return Finding(reason=f"it has {n_outputs} outputs")
    folder = (cache or cache_folder()) / _key(path, inputs)
    with _alone(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _convert(path, inputs, folder)
            _tidy(folder.parent)
        os.utime(folder)
        finding = json.loads((folder / FINDING).read_text(encoding="utf-8"))
    return Finding(**finding, model=folder / MODEL)


def _is_whole(folder: Path) -> bool:
    """Tell a conversion from what a removal left that was killed."""
    with suppress(OSError, ValueError):
        finding = json.loads((folder / FINDING).read_text(encoding="utf-8"))
        return bool(finding["reason"]) or all((folder / name).is_file() for name in (MODEL, WEIGHTS))
    return False


def cache_folder() -> Path:
    """Return the folder of converted models: DUALPATH_CACHE, the user's cache, or else a temporary one."""
    named = os.environ.get("DUALPATH_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for folder in (Path(named) if named else Path(home) / "dualpath", private_folder()):
        with suppress(OSError):
            (folder / "engines").mkdir(parents=True, exist_ok=True)
            if os.access(folder / "engines", os.W_OK | os.X_OK):
                return folder / "engines"
    raise OSError(f"{folder}: expected a folder to write to, got one that cannot be written. Set DUALPATH_CACHE.")


def private_folder() -> Path:
    """Return a folder for temporary files that this user alone can reach.

    Raises:
        PermissionError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"dualpath-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder}: expected a folder of this user alone, got one of others. Set TMPDIR.")
    return folder


def python() -> str:
    """Return the interpreter: an embedded one, as in Triton's stubs, may not know its own."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return shutil.which("python3") or "python3"


def _key(path: Path, inputs: Sequence[Input]) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    torch = "not installed"
    with suppress(importlib.metadata.PackageNotFoundError):
        torch = importlib.metadata.version("torch")
    # This way of converting and comparing may change too.
    code = hashlib.sha256((Path(__file__).parent / "convert.py").read_bytes()).hexdigest()
    here = [openvino_model.version(), torch, _processor(), code]
    return hashlib.sha256(json.dumps([digest, *inputs, *here]).encode()).hexdigest()[:32]


@functools.cache
def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@contextmanager
def _alone(path: Path, option: int = 0) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | option)
        yield


def _convert(path: Path, inputs: Sequence[Input], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        new = Path(name) / "model"
        new.mkdir(mode=0o700)
        order = json.dumps({"path": str(path.resolve()), "inputs": inputs, "folder": str(new)})
        command = [python(), "-W", "ignore", "-m", "dualpath.inference.convert"]
        ended = subprocess.run(command, input=order, text=True, capture_output=True)
        if not (new / FINDING).is_file():  # a converter may crash, and torch may fail to load the file
            said = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
            write(Finding(reason=f"its conversion failed: {said:.200}"), new)
        shutil.rmtree(folder, ignore_errors=True)  # of a tidying that was killed; servers may still read such files
        new.rename(folder)


def write(finding: Finding, folder: Path) -> None:
    """Write a finding into a folder."""
    facts = {name: fact for name, fact in asdict(finding).items() if name != "model"}
    (folder / FINDING).write_text(json.dumps(facts) + "\n", encoding="utf-8")


def _tidy(folder: Path) -> None:
    """Remove all but the models used last; other processes may do the same."""
    used: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.is_dir():
                used.append((path.stat().st_mtime, path))
    for _, old in sorted(used)[:-N_KEPT]:
        with suppress(BlockingIOError), _alone(old.with_suffix(".lock"), fcntl.LOCK_NB):  # else somebody takes it now
            shutil.rmtree(old, ignore_errors=True)


def export(path: Path, folder: Path, inputs: dict[str, Input], output: str, max_batch_size: int) -> Path:
    """Convert a TorchScript file and write it, and its config, as a model folder with version 1.

    Args:
        folder: the model's folder, named as the model.
        inputs: by name, in the model's order; whole numbers of 64 bits.
    Returns:
        The converted model, `model.xml`; its weights lie beside it.
    Raises:
        EngineError: OpenVINO is not installed, cannot convert the model, or answers something else than torch.
    """
    if openvino_model.missing():
        raise EngineError(
            "--format openvino: expected OpenVINO to be installed, got none. Run `pip install 'dualpath[embedded]'`."
        )
    found = convert(path, list(inputs.values()))
    if found.reason:
        raise EngineError(
            f"{path}: expected a model for OpenVINO, got one for torch: {found.reason}. Serve it by that."
        )
    ov = openvino_model.openvino()
    model = ov.Core().read_model(str(found.model))
    _name([port.get_tensor() for port in model.inputs], list(inputs))
    _name([port.get_tensor() for port in model.outputs], [output])
    target = folder / "1" / "model.xml"
    target.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, str(target), compress_to_fp16=False)
    lines = [f'  {{ name: "{name}", data_type: TYPE_INT64, dims: [ -1 ] }}' for name in inputs]
    streams = len(os.sched_getaffinity(0))
    text = _CONFIG.format(
        name=folder.name, max_batch_size=max_batch_size, inputs=",\n".join(lines), output=output, streams=streams
    )
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    return target


def _name(tensors: Sequence[object], names: Sequence[str]) -> None:
    for tensor, name in zip(tensors, names, strict=True):
        tensor.set_names({name})  # type: ignore[attr-defined]
