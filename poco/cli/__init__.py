"""The command line. Commands are thin: each calls one function of the library and shows what it returns.

``poco.__main__`` starts it and turns errors into one line. Needs the extra ``cli``.
"""
