"""At which strength of a fault each kind of features finds it."""
