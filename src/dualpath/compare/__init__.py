"""Load two contenders in turns, and say which is faster and by how much."""
