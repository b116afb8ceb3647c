"""How items are read, sent through a tokenizer and prepared for measures, one module for each modality."""
