"""What a pruning method is made of, and may look at."""
