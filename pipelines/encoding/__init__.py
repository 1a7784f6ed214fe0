"""`longvie encode`: what `longvie prepare` wrote becomes latents and embeddings that a trainer reads."""
