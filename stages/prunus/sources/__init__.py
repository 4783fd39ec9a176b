"""From the files of publishers or users to the prepared dataset."""
