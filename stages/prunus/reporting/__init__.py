"""What the report is made of: findings and caveats in words, charts, and the HTML page; and the page of a sweep."""
