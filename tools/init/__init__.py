"""Proposes a config from a table and a folder of images."""
