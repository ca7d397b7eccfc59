"""Families of decoders. Each converts its keys of config.json to the layers of a model."""
