"""From an engine's log to the cause of its failure."""
