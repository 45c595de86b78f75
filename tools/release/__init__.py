"""A folder of synthetic images and weights that can be shared."""
