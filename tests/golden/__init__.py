"""Numbers of our own from an earlier day, and the script that made them."""
