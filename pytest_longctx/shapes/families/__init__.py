"""Families of decoders: each converts its keys of config.json to the layers of a model."""
