"""Metrics and the tasks that use them."""
