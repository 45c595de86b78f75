"""Trains the classifiers of an evaluation: the one whose features are compared, and the judge."""
