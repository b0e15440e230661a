"""The model repository: its models and versions, releases and their publishing, what a version is, and configs."""
