"""Mend a graph so that it quantizes better, and find the operators that do not."""
