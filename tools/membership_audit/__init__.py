"""Can the training images be identified from the model's losses?"""
