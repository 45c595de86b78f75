"""The diffusion model: from data to latents, training step, validation, generation."""
