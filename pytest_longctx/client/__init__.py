"""The client: one request on the wire, many requests, and other load tools."""
