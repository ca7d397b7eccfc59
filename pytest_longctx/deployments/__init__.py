"""What is served and on what: schema, hardware, model shape, capacity arithmetic."""
