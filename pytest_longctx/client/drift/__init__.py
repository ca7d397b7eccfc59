"""
Drift: the difference between the predictions of two servers at each position of the same text.

    scores    the most probable tokens of each position of a text, by one server
    bound     a lower bound of the KL divergence of two such distributions
    scoring   request the scores of texts, alone and beside other requests
    readings  the scores of several texts, read several times, and their file
    compare   the figures of two such readings
"""
