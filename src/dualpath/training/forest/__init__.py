"""The forest, and which words it counts: fit and export it."""
