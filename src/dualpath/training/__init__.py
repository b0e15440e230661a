"""Fit and export the two models. `build` and `dualpath train` check first that the packages are installed."""
