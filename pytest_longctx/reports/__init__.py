"""Reports: readers of one record. Nothing here asks a live object."""
