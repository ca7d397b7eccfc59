"""Client side: single requests, loads of many requests, and adapters for other load tools."""
