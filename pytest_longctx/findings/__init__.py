"""A documented result: schema, scope, verdict."""
