"""What can be known of the images, the VAE and the labels before any training; arrays and records in, findings out."""
