"""Weights between fits: the mean of several, and how far to go back to the start."""

import pytest
import torch

from dualpath.training.bert import finetune as soup

START = {"head.weight": torch.tensor([0.0, 0.0]), "head.bias": torch.tensor([1.0])}
FITTED = {"head.weight": torch.tensor([4.0, 8.0]), "head.bias": torch.tensor([3.0])}


def test_the_mean_of_members_is_taken_by_parameter():
    mean = soup.mean([START, FITTED])
    assert mean["head.weight"].tolist() == [2.0, 4.0]
    assert mean["head.bias"].tolist() == [2.0]


def test_a_share_lies_on_the_way_from_the_start():
    assert soup.between(START, FITTED, 0.0)["head.weight"].tolist() == [0.0, 0.0]
    assert soup.between(START, FITTED, 0.25)["head.weight"].tolist() == [1.0, 2.0]
    assert soup.between(START, FITTED, 1.0)["head.bias"].tolist() == [3.0]


@pytest.mark.parametrize(("ideal", "share"), [(0.0, 0.25), (2.1, 0.5), (3.2, 0.75), (9.0, 1.0)])
def test_the_best_share_has_the_smallest_error(ideal, share):
    error = lambda weights: abs(float(weights["head.weight"][0]) - ideal)  # noqa: E731
    assert soup.best_share(START, FITTED, error) == share
