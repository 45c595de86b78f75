"""Several evaluations of the same real images, compared."""
