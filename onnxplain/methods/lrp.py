"""Layer-wise relevance propagation by any rule book."""

from __future__ import annotations

from typing import Any

from onnxplain.explanation import Explanation
from onnxplain.methods.job import Job


def lrp(job: Job, **settings: Any) -> Explanation:
    """Layer-wise relevance propagation (Bach et al. 2015) by a rule book.

    Parameters
    ----------
    job : Job
    **settings
        Settings of the book's rules, such as epsilon, gamma, low and high.
    """
    plan = job.plan(options=settings)
    return job.explanation(plan, job.run(plan))
