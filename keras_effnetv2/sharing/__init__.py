"""A trained run becomes a repository of the Hugging Face hub."""
