"""Find the cause of a failure in an engine's log."""
