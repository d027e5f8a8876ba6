"""What users' δ-vectors look like: the paper's section 3 and appendix B, from a run of the method `delta`."""
