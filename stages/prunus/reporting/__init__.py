"""What compare and report are made of: tables, statistics, findings in words, figures and the HTML page."""
