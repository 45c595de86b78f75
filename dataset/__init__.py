"""From a table of labels and a folder of images to batches of latents."""
