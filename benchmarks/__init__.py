"""What the numbers of the documentation come from: each module prints one table."""
