"""Several processes that share a training: how they are started, laid out and watched, and how they communicate."""
