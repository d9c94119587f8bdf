"""The model as a service: an OpenAI-compatible API with regions, and a page that is a client of it."""
