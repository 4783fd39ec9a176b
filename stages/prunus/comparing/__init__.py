"""Tables and statistics over seeds and methods."""
