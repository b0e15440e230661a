"""The model repository: what Triton loads."""
