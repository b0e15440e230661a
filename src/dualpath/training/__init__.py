"""Fit and export the two models."""
