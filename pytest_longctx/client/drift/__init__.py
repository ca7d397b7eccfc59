"""
Drift: how far the predictions of one server are from those of another, for the same text and position by position.

    scores    what a server says of one text: the most probable tokens of each position
    bound     a lower bound of the KL divergence of two such distributions
    scoring   request the scores of texts, alone and in company
    readings  the scores of several texts, read several times, and the file that keeps them
    compare   the figures of two such readings
"""
