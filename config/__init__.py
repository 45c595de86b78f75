"""YAML files and the typed, checked configuration that they become."""
