"""Turns the released checkpoints of others into ours: names, shapes, configurations."""
