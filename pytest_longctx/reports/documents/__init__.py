"""Pages about the five published source documents: their claims and their commands."""
