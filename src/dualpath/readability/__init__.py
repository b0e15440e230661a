"""The domain: the tensor contract, text to features and tokens, and the combination of scores."""
