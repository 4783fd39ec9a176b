"""What compare makes of a study: tables, statistics over seeds and methods, and what is missing."""
