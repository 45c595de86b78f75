"""Trains the two classifiers of an evaluation: one for features, and the judge."""
