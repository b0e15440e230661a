"""How far two scores of the same excerpt may lie apart, by the precision that the model computes in."""

TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 5e-3, "int8": 1e-1}
"""Largest difference between two scores of the same excerpt, by the precision BERT was built with.

One row moves by up to 3.6e-6 (float32) with the rows it shares a batch with, by 1.7e-6 with padding, by 9.1e-6
with the number of threads: matrix kernels sum in another order. In bfloat16 each of these is up to 7e-3.
float16 rounds eight times finer than bfloat16: up to 2.5e-4, and bfloat16 by 1.7e-3 (24 excerpts, a CPU), and
5e-3 leaves room for a GPU's kernels, which were not measured.
int8 holds between the engines: OpenVINO rounds a layer's inputs too, which moves a score by up to 5e-2 (random tokens).
"""
