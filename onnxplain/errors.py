"""The errors a user meets: one clear sentence each, with the exit status of the command line."""

from __future__ import annotations


class OnnxplainError(Exception):
    """Base of every error that is the user's to read; anything else is a bug.

    Attributes
    ----------
    exit_status : int
        Exit status of the command line: 1 failure, 2 usage, 3 unsupported model.
    """

    exit_status = 1


class FailureError(OnnxplainError):
    """What was asked is right but could not be done: corrupt file, NaN, memory, disk."""


class UsageError(OnnxplainError):
    """What was asked is wrong or ambiguous: option, name, target, label, shape, dtype, missing file."""

    exit_status = 2


class UnsupportedError(OnnxplainError):
    """A sound ONNX file that cannot be run or explained: op, custom domain, opset, IR."""

    exit_status = 3
