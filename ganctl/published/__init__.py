"""Layouts of published weights that are more than a renaming: from what a file holds to a config and our names."""
