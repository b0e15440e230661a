"""One scoring pipeline on NVIDIA Triton, orchestrated as an ensemble and with Business Logic Scripting."""

__version__ = "0.1.0"
