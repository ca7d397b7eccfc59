"""Parse a log: bytes into lines, lines into records without prefixes, quoted text."""
