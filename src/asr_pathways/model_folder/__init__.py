"""What a MODEL is: a speech model, its tokenizer, its card and its pathways."""
