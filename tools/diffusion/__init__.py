"""The heart: data to latents, training step, validation, generation."""
