"""Code that two or more checks before training share."""
