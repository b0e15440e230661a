"""What the parts of `make gpu` share: what they are told and find, and the repositories and models that they run."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "gpu")]

import repositories as repositories  # noqa: E402

from dualpath.compare import inputs  # noqa: E402
from dualpath.compare.bench_servers import GPU_CONFIGS, build_encoder, why_no_gpu, with_artifacts  # noqa: E402
from dualpath.readability.contract import ENSEMBLE, EXCERPT  # noqa: E402
from dualpath.readability.tokens import TokenEncoder, pad  # noqa: E402
from gpu_reference import GPU_TOLERANCES as GPU_TOLERANCES  # noqa: E402

SHAPES = ("minilm", "bert-large")


class Skip(Exception):
    """The part cannot run here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What all parts are told; `rehearse` puts torch's CPU in the GPU's place, with as little as shows that it runs."""

    model_repository: Path
    out: Path
    work_dir: Path
    input_file: Path | None
    rehearse: bool

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("float32",) if self.rehearse else tuple(GPU_TOLERANCES)

    @property
    def shapes(self) -> tuple[str, ...]:
        return SHAPES[:1] if self.rehearse else SHAPES

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 2) if self.rehearse else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

    @property
    def duration_s(self) -> float:
        return 0.1 if self.rehearse else 10.0

    def excerpts(self) -> list[bytes]:
        rows = inputs.read(self.input_file).tensors(ENSEMBLE.inputs)
        return [row.tensors[EXCERPT.name].ravel().tolist()[0] for row in rows]


@dataclass
class Found:
    """What a part found: rows of a table, facts by name, and what is wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def repository(settings: Settings, shape: str, precision: str) -> Iterator[Path]:
    """A model repository with this encoder, as it is to be served on the GPU."""
    with TemporaryDirectory(prefix="dualpath-gpu-") as folder:
        source = settings.model_repository
        if not settings.rehearse:
            built = build_encoder(settings.work_dir, shape, precision, partial(print, flush=True))
            yield with_artifacts(source, built, Path(folder))
        else:
            yield repositories.on_torch_cpu(source, Path(folder))


def configs(settings: Settings, model_repository: Path) -> list[str | None]:
    """The config names that put models on the GPU here; in a rehearsal the CPU's."""
    if settings.rehearse:
        return [None]
    why_not = {name: why_no_gpu(model_repository, name) for name in GPU_CONFIGS}
    if all(why_not.values()):
        raise Skip("; ".join(str(why) for why in why_not.values()))
    return [name for name, why in why_not.items() if why is None]


def model_and_inputs(settings: Settings, path: Path, batch: int) -> tuple[Any, list[Any], float]:
    """The device's model, a batch of excerpts on the device, and how many tokens a row has, padding left out."""
    import torch

    from dualpath.inference import torch_model

    if settings.rehearse:
        torch_model.TYPE = "cpu"
    model = torch_model.DeviceModel(path / "model.pt", 0)
    excerpts = list(itertools.islice(itertools.cycle(settings.excerpts()), batch))
    arrays = pad(TokenEncoder(path / "tokenizer.json").encode(excerpts))
    return model, [torch.from_numpy(array).to(model.device) for array in arrays], float(arrays[1].sum(1).mean())
