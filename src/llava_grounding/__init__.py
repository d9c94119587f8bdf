"""Grounded visual chat: answers whose noun phrases are tied to boxes and pixel masks."""
