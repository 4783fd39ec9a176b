"""The settings of a study, and the paths of its results."""
