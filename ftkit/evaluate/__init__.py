"""What a model has learned, measured. Importing it does not load torch."""

from ftkit.evaluate.exact_match import Evaluation, exact_match
from ftkit.evaluate.report import before_after, contains_score
from ftkit.evaluate.score import FieldScores, field_scores

__all__ = ["Evaluation", "FieldScores", "before_after", "contains_score", "exact_match", "field_scores"]
