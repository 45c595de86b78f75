"""Diffusion mathematics: the noise schedule, training objectives, guidance and samplers."""
