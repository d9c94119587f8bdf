"""Answering: a model loaded once, conversations, the token loop. Knows no training and no HTTP."""
