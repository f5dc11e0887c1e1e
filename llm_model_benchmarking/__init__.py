"""A small language model behind LitServe servers."""
