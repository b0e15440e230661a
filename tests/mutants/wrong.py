"""Variants with one fault each, of the kinds that hand-written pipelines have."""

from wrong_requests import REQUESTS
from wrong_rows import ROWS
from wrong_values import VALUES

WRONG = {**ROWS, **VALUES, **REQUESTS}
