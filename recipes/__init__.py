"""How each shipped tiny checkpoint is trained, from nothing: one command a recipe, seeded and resumable."""
