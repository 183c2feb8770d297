"""N:M sparsity for any PyTorch module: patterns, projection, ADMM, masked training and verification.

Imports torch only; usable in a plain training loop.
"""

from nxm_sweep.sparsity.admm import Admm, Residuals
from nxm_sweep.sparsity.importance import Importance, InputNorms, SecondMoments
from nxm_sweep.sparsity.masking import Masking, distance, prune_, pruned
from nxm_sweep.sparsity.matrix_check import MatrixCheck, check_file, check_matrix, check_targets
from nxm_sweep.sparsity.pattern import Constraint, Pattern, Unstructured
from nxm_sweep.sparsity.projection import project, support
from nxm_sweep.sparsity.schedule import Schedule
from nxm_sweep.sparsity.targets import Factors, Rule, Target, describe_targets, encoder_rules, select_targets

__all__ = [
    "Admm",
    "Constraint",
    "Factors",
    "Importance",
    "InputNorms",
    "Masking",
    "MatrixCheck",
    "Pattern",
    "Residuals",
    "Rule",
    "Schedule",
    "SecondMoments",
    "Target",
    "Unstructured",
    "check_file",
    "check_matrix",
    "check_targets",
    "describe_targets",
    "distance",
    "encoder_rules",
    "project",
    "prune_",
    "pruned",
    "select_targets",
    "support",
]
