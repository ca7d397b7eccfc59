"""Deployments: schema, hardware, model shape and capacity arithmetic."""
