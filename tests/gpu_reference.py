"""What the CPU gives for the samples, for machines that have no torch beside their GPU; a unit test keeps it true."""

import json

import numpy as np

from dualpath.readability.samples import SAMPLES
from paths import ROOT

EXCERPTS = [sample.text.encode() for sample in SAMPLES]
WEIGHTS = np.array([0, 0.25, 0.5, 0.75, 1, 1, 0.5, 0], np.float32)
ON_CPU = json.loads((ROOT / "tests" / "gpu" / "cpu_scores.json").read_text())
"""The encoder's name, and its `scores` with these weights in float32."""
