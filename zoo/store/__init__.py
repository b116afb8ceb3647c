"""Cards, recipes, weights: everything between a name and a tokenizer."""
