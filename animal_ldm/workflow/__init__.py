"""`animal-ldm run`: the steps from photos to a published model in order, within a budget of minutes.

It calls what the other commands call, and adds the choice of settings, the clock, and what is to be said at the end.
"""
