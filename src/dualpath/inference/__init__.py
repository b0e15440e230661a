"""Run TorchScript models on the CPU, by the fastest engine that gives their answers: OpenVINO or torch.

`load` decides, for everything in the project that only infers. `service` shares one loaded model between processes.
"""

from dualpath.inference.engines import ENGINES, load
from dualpath.inference.model import EngineError, Input, LoadedModel

__all__ = ["ENGINES", "EngineError", "Input", "LoadedModel", "load"]
