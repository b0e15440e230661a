"""Rated excerpts: read them and split them into folds."""
