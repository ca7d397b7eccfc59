"""
Drift: the difference between the predictions of two servers at each position of the same text.

scores what a server says of one text: the most probable tokens of each position bound a lower bound of the KL
divergence of two such distributions scoring request the scores of texts, alone and in company readings the scores of
several texts, read several times, and the file that keeps them compare the figures of two such readings
"""
