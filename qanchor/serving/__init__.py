"""What stands between a network and the embeddings: who may do what, what is written down, what is sealed at rest."""
