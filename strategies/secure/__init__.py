"""Secure aggregation's mathematics: masks that cancel in a sum, and secrets that enough users can restore.

Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning* (CCS 2017), section 4. `keys`
has the cryptography, `ring` the integers that are summed.
"""
