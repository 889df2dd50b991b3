"""Compare generated frames with ground truth, over one case or many.

    python evaluate.py --results output --truth inference --output_dir output/evaluation

Prints a table and writes metrics.json, a CSV a case and contact_sheet.png to the output folder. Results are found by
their case's name: those of inference/case-1 in output/case-1. The layout of a case stands in docs/evaluation.md; what
a case does not have is not needed.
"""

from animation import cli
from animation.evaluation.settings import EvaluationSettings
from animation.flags import parse
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, measure."""
    cli.start_logging()
    settings = parse(EvaluationSettings, __doc__)
    cases = settings.read_cases()  # bad input ends here, before torch is imported
    settings = fill_in(settings)  # a network that is not named need not be there
    cli.quiet_libraries()
    from animation.evaluation.evaluation import evaluate

    evaluate(settings, cases)
