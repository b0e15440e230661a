"""The BERT regressor: fit and export it."""
