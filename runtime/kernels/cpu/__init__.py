"""Operators of the CPU in C++: recorded once as a program, replayed in one call a step.

Nothing here or below imports torch. The library is compiled when the package is installed
(`build`), from one source for every instruction set.
"""
