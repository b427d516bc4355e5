"""The methods by name: what carries each out, its plan, and what of a call it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from onnxplain.engine.run import Work
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods.ablation_cam import ablation_cam
from onnxplain.methods.cam import (
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from onnxplain.methods.fixations import fixations
from onnxplain.methods.fullgrad import fullgrad
from onnxplain.methods.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    signal_book,
    smoothgrad,
)
from onnxplain.methods.job import GRADIENT, Job
from onnxplain.methods.lrp import lrp
from onnxplain.methods.perturbation import occlusion, rise
from onnxplain.methods.salient_relevance import relevance_plan, salient_relevance
from onnxplain.methods.score_cam import score_cam
from onnxplain.methods.sise import ada_sise, named_layers, sise
from onnxplain.methods.vebi import RULES, vebi
from onnxplain.relevance.plan import Plan

Planner = Callable[[Job, Mapping[str, Any]], Plan]
"""From a job and the method's options to the plan that would be carried out."""

FORWARD = "it only runs the model and takes no backward step"


@dataclass(frozen=True)
class Method:
    """A method of explanation and what of a call it takes.

    Attributes
    ----------
    explain : callable
        Carries it out; the keyword arguments behind the job are the method's options.
    plan : callable or str
        Its plan, or why it has none.
    rules : str or None
        The rule book it takes unless told otherwise; None where it takes none.
    backward : bool
        Whether it carries out a plan, on the engine and in the precision that were asked for.
    inner : bool
        Whether it gives the relevance of tensors inside the model.
    """

    explain: Callable[..., Explanation]
    plan: Planner | str
    rules: str | None = None
    backward: bool = True
    inner: bool = False

    @cached_property
    def options(self) -> tuple[inspect.Parameter, ...]:
        """What it takes besides the job."""
        return tuple(inspect.signature(self.explain).parameters.values())[1:]


def _gradient(job: Job, options: Mapping[str, Any]) -> Plan:
    return job.plan(GRADIENT)


def _signals(name: str) -> Planner:
    return lambda job, options: job.plan(signal_book(name, **options))


def _features(job: Job, options: Mapping[str, Any]) -> Plan:
    """The gradient down to the feature maps."""
    names = named_layers(options.get("layer") or options.get("layers") or ())
    if not names:
        option = "layers" if job.method.endswith("sise") else "layer"
        raise UsageError(
            f"method {job.method!r} finds its layers when an input is given, so it has no plan before; "
            f"name them with option {option}"
        )
    return job.plan(GRADIENT, sources=[job.model.tensor(name) for name in names])


def _interpreted(job: Job, options: Mapping[str, Any]) -> Plan:
    made = job.plan(signal_book(RULES, **{name: value for name, value in options.items() if name.startswith("stride")}))
    note = "signals begin at the layers of the features, which each input chooses; the layers above are not walked"
    return replace(made, notes=(*made.notes, note))


METHODS: dict[str, Method] = {
    "lrp": Method(lrp, lambda job, options: job.plan(options=options), rules="epsilon-plus-flat", inner=True),
    "gradient": Method(gradient, _gradient, inner=True),
    "input-x-gradient": Method(input_x_gradient, _gradient, inner=True),
    "smoothgrad": Method(smoothgrad, _gradient, inner=True),
    "integrated-gradients": Method(integrated_gradients, _gradient, inner=True),
    "guided-backprop": Method(guided_backprop, _signals("guided-backprop"), inner=True),
    "deconvnet": Method(deconvnet, _signals("deconvnet"), inner=True),
    "fixations": Method(fixations, "it follows points back instead of relevance", backward=False, inner=True),
    "salient-relevance": Method(salient_relevance, relevance_plan, rules="salient-relevance", inner=True),
    "vebi": Method(vebi, _interpreted),
    "sise": Method(sise, _features),
    "ada-sise": Method(ada_sise, _features),
    "score-cam": Method(score_cam, FORWARD, backward=False),
    "rise": Method(rise, FORWARD, backward=False),
    "occlusion": Method(occlusion, FORWARD, backward=False),
    "grad-cam": Method(grad_cam, _features),
    "grad-cam++": Method(grad_cam_plus_plus, _features),
    "hires-cam": Method(hires_cam, _features),
    "layer-cam": Method(layer_cam, _features),
    "xgrad-cam": Method(xgrad_cam, _features),
    "ablation-cam": Method(ablation_cam, FORWARD, backward=False),
    "guided-grad-cam": Method(guided_grad_cam, lambda job, options: job.plan(signal_book("guided-backprop"))),
    "fullgrad": Method(fullgrad, lambda job, options: job.plan("full-gradient"), inner=True),
}


def find_method(name: str) -> Method:
    """The method of a name.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def check_method(name: str, options: Mapping[str, Any], rules: str | None = None) -> Method:
    """The method of a name, which must have these options and, where one is given, take a rule book.

    Raises
    ------
    UsageError
        There is none, or it has not.
    """
    method = find_method(name)
    if rules is not None and method.rules is None:
        takers = " and ".join(other for other, one in METHODS.items() if one.rules)
        raise UsageError(f"method {name!r} takes no rule book, {takers} do; leave out rules (--rules)")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in method.options):
        return method
    known = [parameter.name for parameter in method.options]
    for option in options:
        if option not in known:
            offer = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"method {name!r} has no option {option!r}; {offer}")
    return method


def check_work(name: str, work: Work) -> None:
    """Complain of what would have no effect on a method: engine, dtype, tensors inside the model, the ledger.

    Raises
    ------
    UsageError
        Something would.
    """
    method = METHODS[name]
    if not method.backward and (work.engine not in ("auto", "host") or work.dtype != "float32"):
        raise UsageError(
            f"method {name!r} carries out no plan and runs in float32; leave engine and dtype at their defaults"
        )
    if work.keep and not method.inner:
        takers = ", ".join(other for other, one in METHODS.items() if one.inner)
        raise UsageError(f"method {name!r} explains at the input only; at (--at) is for {takers}")
    if work.ledger and method.rules is None:
        raise UsageError(f"method {name!r} keeps no ledger; leave out ledger")
