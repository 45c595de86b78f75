"""What leaves a machine or comes to it: the folder of a release, and the bundle for a machine without a network."""
