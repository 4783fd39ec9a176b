"""How a network is trained: the loop, when it stops, how it goes on."""
