"""What an optimization shows to people."""
