"""What a study may say, and where its results lie."""
