"""What two or more checks before training share."""
