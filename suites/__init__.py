"""The conformance suites. Each test asks one question of every finding that needs it."""
