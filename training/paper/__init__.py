"""V3 as published, in two domains: instruments playing notes, coloured digits.

What the paper trained and measured, with the baselines it was measured against. The shipped model
(`training.train`) grew out of it and shares its loss and codebook.
"""
