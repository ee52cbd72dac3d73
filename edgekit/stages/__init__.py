"""The stages of the straight line; they never import each other."""
