"""Networks: the autoencoder's codec, the class-conditional UNet, its moving average, and a small classifier."""
