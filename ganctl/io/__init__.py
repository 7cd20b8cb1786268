"""Files in and out: one door per kind of file, and nothing half-written."""
