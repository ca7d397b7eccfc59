"""Families of decoders, each from its keys in config.json to the layers of a model."""
