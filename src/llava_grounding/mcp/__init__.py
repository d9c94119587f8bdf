"""Tools for agents, by the Model Context Protocol: ask about a picture, find things in it, draw an answer.

`tools` is what they do, `server` their names and descriptions on the wire. Pictures are files in folders that were
allowed, and nothing is written. Needs the extra `mcp`.
"""
