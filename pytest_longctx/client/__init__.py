"""Client of a server: single requests, loads of many requests, and adapters for other load tools."""
