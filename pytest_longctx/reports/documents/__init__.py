"""Pages about the five published documents: their claims and their commands."""
