"""
Hosted APIs in miniature, as a client sees them: only a URL, a key and a model name are known.

Each miniature reads its prompt: it tokenizes it, answers a question from the text that it kept, and counts what it
read. A fault therefore has the same effect as at a real provider. ``python -m pytest_longctx.miniatures.hosted --help``
shows how to start one.
"""
