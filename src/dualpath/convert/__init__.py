"""From ensembles to BLS models: the graph of an ensemble, checks of a model repository, the model that is written."""
