"""The conformance suites: each test asks one question, of every finding that wants it answered."""
