"""
Hosted APIs in miniature: what a client sees of a provider that gives a URL, a key and a model name, and nothing else.

Each miniature reads its prompt: it tokenizes it, answers a question from the text that it kept, and counts what it read. A
fault therefore has the effect that it has at a provider.
``python -m pytest_longctx.miniatures.hosted --help`` shows how to start one.
"""
