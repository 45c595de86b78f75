"""Does the VAE keep what matters?"""
