"""A study of when transfer learning helps ECG diagnosis."""

__version__ = "0.1.0"
