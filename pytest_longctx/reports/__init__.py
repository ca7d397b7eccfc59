"""Reports made from a results file. No module here uses live objects of a run."""
