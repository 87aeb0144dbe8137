"""Training sound, training and measuring: what makes a model. Imports v3audio, never realtime."""
