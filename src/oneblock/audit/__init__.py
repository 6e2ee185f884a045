"""What a generator has memorised of its training data: cyclic denoising, and membership by its loss on each band.

The same steps are an attack on the privacy of the data: audit models and data that are your own.
"""
