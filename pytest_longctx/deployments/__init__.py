"""Deployments: their schema, hardware, model shapes and capacity arithmetic."""
