"""The model repository: its configs, its versions and its releases."""
