"""What the CPU gives for the samples, for machines that have no torch beside their GPU; a unit test keeps it true."""

import json

import numpy as np

from dualpath.readability.samples import SAMPLES
from paths import ROOT

EXCERPTS = [text.encode() for text in SAMPLES.values()]
WEIGHTS = np.array([0, 0.25, 0.5, 0.75, 1, 1, 0.5, 0], np.float32)
GPU_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest difference to float32 on the CPU, by BERT's precision: other kernels, and a coarser encoder. Guessed from
what precision and padding do on the CPU; never measured on a GPU."""
ON_CPU = json.loads((ROOT / "tests" / "gpu" / "cpu_scores.json").read_text())
"""The encoder's name, and its `scores` with these weights in float32."""
