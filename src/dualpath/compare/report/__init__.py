"""The report of a comparison: one HTML page that needs nothing else, and its figures as PNG beside it."""

from dualpath.compare.report.folder import check, write

__all__ = ["check", "write"]
