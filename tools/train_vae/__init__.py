"""Trains a VAE on the training images, or fine-tunes a published one."""
