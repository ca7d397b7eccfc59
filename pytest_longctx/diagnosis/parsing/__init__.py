"""Parse a log: bytes to lines, lines to records without prefixes, and quoted text in lines."""
