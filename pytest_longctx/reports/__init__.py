"""Reports, which are made from a results file alone. No module here uses live objects of a run."""
