"""Certify an endpoint: about forty checks of any URL, within a budget, without pytest."""
