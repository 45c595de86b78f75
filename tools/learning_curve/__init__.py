"""Trains on nested subsets of the labelled images and shows how the images improve with their number."""
