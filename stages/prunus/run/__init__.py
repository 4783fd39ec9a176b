"""What surrounds a computation: files, errors, records, devices, and which code a stage runs."""
