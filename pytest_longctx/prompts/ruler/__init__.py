"""
The thirteen tasks of RULER (Hsieh et al. 2024, arXiv:2404.06654) as prompts of an exact token count, and their scores.

Templates, essays, questions and word lists are read at run time from two packages that ``longctx data ruler`` fetches. The code
is written from the published description of the tasks.

    tasks      what each task hides, how long its answer is and how it is scored
    material   the published packages, and what is read from them
    exact      fits a task's text to a token count: cuts its end, or chooses its last units
    niah       facts in repeated noise, in essays, or among other facts
    tracking   chains of variables in repeated noise
    words      the most frequent words of a list or of a coded text
    documents  questions on documents
    scoring    the published score of an answer
    build      a task's prompt as ids, text or a chat message
"""
