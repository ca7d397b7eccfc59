"""Findings: schema, scope, evidence and verdicts of documented results."""
