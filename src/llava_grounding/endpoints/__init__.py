"""Asking language models behind OpenAI-compatible endpoints: the client, what its failures mean, how fast and how much
is asked, and the store of what was asked and answered.

Knows no tasks: `annotate` and `benchmark` say what is asked, each by a `Questioner`.
"""
