"""Whole analyses: images in, a result object out, a folder on request.

The functions are imported from their modules (or from `gpuroi` itself): a package attribute `roi` would be
now the module, now the function, depending on what was imported first.
"""
