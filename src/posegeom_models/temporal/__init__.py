"""Contrastive disentanglement on monocular video (003): what changes of a person in time, and what does not."""
