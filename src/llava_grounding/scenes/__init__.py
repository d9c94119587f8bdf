"""The drawn world: what there is to draw, how, what is true in a scene, and questions about it. Truth is exact."""
