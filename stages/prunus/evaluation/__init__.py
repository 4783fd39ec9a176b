"""What a pruned network is worth: layers, cost, information kept."""
