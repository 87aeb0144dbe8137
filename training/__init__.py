"""Training sound, training and measuring: everything that makes a model. Imports v3audio, never realtime."""
