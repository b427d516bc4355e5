"""Measures of explanations, box readers, intervals and the trivial maps every method is held against."""
