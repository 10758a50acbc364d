"""Sign variants, publish them, and say what is released."""
