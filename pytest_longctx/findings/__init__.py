"""Findings: schema, scope, evidence and verdict of documented results."""
