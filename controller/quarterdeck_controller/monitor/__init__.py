"""What the fleet measured: take it in, merge it, show it, compare it."""
