"""The step from published or own files to the prepared dataset."""
