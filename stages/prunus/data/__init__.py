"""The prepared dataset on its device, and its batches."""
