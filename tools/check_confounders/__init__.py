"""Is the class readable from how the image was taken?"""
